// The panel of the best so far: a rater's pins, and the winner of each round that is over, newest first.

import { contentOf } from "./content.js";
import { pinButton, saveLink } from "./keeping.js";
import { ask, element, get, say, state, warn } from "./page.js";
import * as viewer from "./viewer.js";

const made = (name, properties = {}, ...children) => {
  const one = Object.assign(document.createElement(name), properties);
  one.append(...children);
  return one;
};

let more = null; // the round below which the next page begins
let chosen = null; // the item that is asked about
let wentOn = () => {};

// --- drawing ---------------------------------------------------------------------------------------------------------

const figure = (item, name, facts) => {
  const caption = made("figcaption", {}, made("strong", { textContent: name }), made("span", { textContent: facts }));
  if (item.hidden) {
    const words = "Among those being ranked now. Shown once the round is over.";
    return made("li", { className: "past" }, made("p", { className: "content held", textContent: words }), caption);
  }
  const content = contentOf(state.run, item, name, true);
  const look = made("button", { type: "button", textContent: "⤢", title: "Look at it large" });
  look.setAttribute("aria-label", `Look at it large: ${name}`);
  look.addEventListener("click", () => viewer.open([{ item, name }]));
  const tools = made("div", { className: "keep" }, pinButton(item, name), look, saveLink(item, name));
  const past = made("li", { className: "past" }, content, caption, tools, onwards(item, name));
  past.dataset.id = item.id;
  return past;
};

const onwards = (item, name) => {
  if (item.open) return made("p", { className: "hint", textContent: "Being ranked: go on from it once the round is over." });
  if (!item.has_point) return made("p", { className: "hint", textContent: "The search can't go on from this one: its point isn't kept." });
  const button = made("button", { type: "button", className: "onwards", textContent: "Go on from this" });
  button.setAttribute("aria-label", `Go on from this: ${name}`);
  button.addEventListener("click", () => confirm(item, name));
  return button;
};

const notes = (words) => words.map((text) => made("li", { className: "note", textContent: text }));

const drawRound = ({ number, raters, best, wishes }) => {
  const facts = ` by ${raters.join(", ")}`;
  const tie = best.length > 1 ? ", tied" : "";
  const figures = best.map((item) => figure(item, `Best of round ${number}`, `${facts}${tie}`));
  const none = made("li", { className: "note", textContent: `Round ${number}${facts}: nothing was put in order.` });
  return [...(best.length ? figures : [none]), ...notes(wishes)];
};

const drawPins = (pins) => {
  element("pins").replaceChildren(...pins.map((item) => figure(item, "Pinned", "")));
  element("pins-none").hidden = pins.length > 0;
};

// --- loading ---------------------------------------------------------------------------------------------------------

const load = async () => {
  const found = await get("/api/history");
  drawPins(found.pins);
  element("rounds").replaceChildren(...notes(found.wishes), ...found.rounds.flatMap(drawRound));
  element("rounds-none").hidden = found.rounds.length > 0;
  turnPage(found);
};

const turnPage = (found) => {
  more = found.more;
  element("more").hidden = more === null;
};

const guarded = (act) => async () => {
  warn("");
  try {
    await act();
  } catch (error) {
    warn(error.message);
  }
};

export const open = guarded(async () => {
  if (!state.rater || element("history").open) return;
  element("history").showModal();
  element("history-title").focus();
  await load();
});

// Draws it anew if it is open: a round has ended.
export const refresh = async () => {
  if (element("history").open) await load().catch((error) => warn(error.message));
};

element("more").addEventListener("click", guarded(async () => {
  const found = await get("/api/history", { before: more });
  const lines = found.rounds.flatMap(drawRound);
  element("rounds").append(...lines);
  turnPage(found);
  say(`${found.rounds.length} earlier rounds.`);
  lines[0]?.querySelector("button")?.focus();
}));

document.addEventListener("pinned", guarded(async () => {
  if (!element("history").open) return;
  const at = element("history").contains(document.activeElement) ? document.activeElement.closest("#pins") : null;
  drawPins((await get("/api/history")).pins);
  if (at) element("history-title").focus(); // what had the focus is gone
}));

// --- going on from one -----------------------------------------------------------------------------------------------

const confirm = (item, name) => {
  chosen = item;
  element("branch-stage").replaceChildren(contentOf(state.run, item, name));
  element("branch").showModal();
};

// then() is called when the search was told to go on from elsewhere.
export const whenGoneOn = (then) => (wentOn = then);

element("branch-yes").addEventListener("click", guarded(async () => {
  await ask("/api/branch", { artifact: chosen.id });
  element("branch").close();
  element("history").close();
  wentOn();
}));
element("branch-no").addEventListener("click", () => element("branch").close());
element("branch").addEventListener("close", () => element("branch-stage").replaceChildren());
element("history-button").addEventListener("click", open);
element("history-close").addEventListener("click", () => element("history").close());
document.querySelector("main").addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, audio, video");
  if (event.key.toLowerCase() !== "h" || event.ctrlKey || event.metaKey || event.altKey || typing) return;
  event.preventDefault();
  open();
});
