// What every part of the page shares: who is at it, how it asks the server, how it speaks.

export const state = { run: "", rater: "", round: null, csrf: "" };

export const element = (id) => document.getElementById(id);

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Posts a message in the rater's name; without one it gets.
export const ask = async (path, message) => {
  const post = message && {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": state.csrf },
    body: JSON.stringify({ run: state.run, rater: state.rater, ...message }),
  };
  let answer;
  try {
    answer = await fetch(path, post);
  } catch {
    throw new Refused(0, "The server doesn't answer. Your order is kept in this browser; try again in a moment.");
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, found.message ?? `The server refused (${answer.status}).`);
  return found;
};

export const get = (path, facts = {}) =>
  ask(`${path}?${new URLSearchParams({ run: state.run, rater: state.rater, ...facts })}`);

// What lies under an open dialog is neither seen nor read out, so each dialog may have places of its own.
const place = (selector, otherwise) =>
  [...document.querySelectorAll("dialog[open]")].at(-1)?.querySelector(selector) ?? element(otherwise);

// To a screen reader.
export const say = (text) => (place("[role=status]", "live").textContent = text);

// To everyone; "" takes it away.
export const warn = (text) => {
  if (!text) {
    for (const notice of document.querySelectorAll(".notice")) notice.hidden = true;
    return;
  }
  const notice = place(".notice", "notice");
  notice.textContent = text;
  notice.hidden = false;
  notice.scrollIntoView({ block: "nearest" });
};
