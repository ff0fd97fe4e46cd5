// What this browser remembers until it is sent.

export const keyOf = (...parts) => `blackbox:${JSON.stringify(parts)}`;

export const recall = (key) => {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
};
export const keep = (key, value) => localStorage.setItem(key, JSON.stringify(value));
export const forget = (key) => localStorage.removeItem(key);

export const randomName = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
