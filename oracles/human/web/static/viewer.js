// One candidate large, and a second one in the same place to flicker between.

import { contentOf } from "./content.js";

const element = (id) => document.getElementById(id);
const FLICKER = 700; // milliseconds: below three flashes a second (WCAG 2.3.1)

let shown = [];
let current = 0;
let timer = 0;

const show = (index) => {
  current = index;
  shown.forEach(({ content }, i) => (content.hidden = i !== index));
  element("viewer-title").textContent = `Candidate ${shown[index].letter}`;
};

const toggle = () => shown.length > 1 && show(1 - current);

const zoom = (wanted) => {
  element("viewer-stage").classList.toggle("closer", wanted);
  element("viewer-zoom").setAttribute("aria-pressed", String(wanted));
};
const zoomed = () => element("viewer-stage").classList.contains("closer");

const stop = () => {
  clearInterval(timer);
  timer = 0;
  element("viewer-auto").setAttribute("aria-pressed", "false");
};

// pairs: one or two {item, letter}.
export const open = (run, pairs) => {
  shown = pairs.map(({ item, letter }) => ({ letter, content: contentOf(run, item, letter) }));
  element("viewer-stage").replaceChildren(...shown.map(({ content }) => content));
  element("viewer-other").hidden = element("viewer-auto").hidden = shown.length < 2;
  show(0);
  element("viewer").showModal();
};

element("viewer-other").addEventListener("click", toggle);
element("viewer-auto").addEventListener("click", () => {
  if (timer) return stop();
  timer = setInterval(toggle, FLICKER);
  element("viewer-auto").setAttribute("aria-pressed", "true");
});
element("viewer-zoom").addEventListener("click", () => zoom(!zoomed()));
element("viewer-close").addEventListener("click", () => element("viewer").close());
element("viewer").addEventListener("close", () => {
  stop();
  zoom(false);
  element("viewer-stage").replaceChildren(); // a film or a sound ends with it
});
element("viewer").addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() === "f") toggle();
  if (event.key.toLowerCase() === "z") zoom(!zoomed());
});
