// Pinning a candidate and saving it as a file, wherever it is shown.

import { addressOf } from "./content.js";
import { ask, say, state, warn } from "./page.js";

const draw = (button, pinned) => {
  button.textContent = pinned ? "★" : "☆";
  button.title = pinned ? "Unpin" : "Pin";
  button.setAttribute("aria-pressed", String(pinned));
};

// item: {id, pinned, ...}, which is kept up to date.
export const pinButton = (item, name) => {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "pin" });
  button.dataset.pin = item.id;
  button.setAttribute("aria-label", `Pin: ${name}`);
  draw(button, item.pinned);
  button.addEventListener("click", () => togglePin(item, name));
  return button;
};

export const togglePin = async (item, name) => {
  const pinned = !item.pinned;
  try {
    await ask("/api/pin", { artifact: item.id, pinned });
  } catch (error) {
    return warn(error.message);
  }
  item.pinned = pinned;
  for (const button of document.querySelectorAll(`[data-pin="${CSS.escape(item.id)}"]`)) draw(button, pinned);
  document.dispatchEvent(new CustomEvent("pinned", { detail: { id: item.id, pinned } }));
  say(pinned ? `${name} is pinned. Your pins are in the history.` : `${name} is not pinned any more.`);
};

export const saveLink = (item, name) => {
  const link = Object.assign(document.createElement("a"), { className: "button", textContent: "Save", download: "" });
  link.href = `${addressOf(state.run, item)}?save=true`;
  link.setAttribute("aria-label", `Save as a file: ${name}`);
  return link;
};
