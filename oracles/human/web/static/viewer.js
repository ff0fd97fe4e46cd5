// One candidate large, and a second one in the same place to flicker between.

import { contentOf } from "./content.js";
import { pinButton, saveLink } from "./keeping.js";
import { element, state } from "./page.js";

const FLICKER = 700; // milliseconds: below three flashes a second (WCAG 2.3.1)

let shown = [];
let current = 0;
let timer = 0;

const show = (index) => {
  current = index;
  shown.forEach(({ content }, i) => (content.hidden = i !== index));
  const { item, name } = shown[index];
  element("viewer-title").textContent = name;
  if (timer) return; // while it flickers, what stands below would flicker too
  element("viewer-keep").replaceChildren(pinButton(item, name), saveLink(item, name));
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
  element("viewer-keep").hidden = false;
};

// things: one or two {item, name}.
export const open = (things) => {
  shown = things.map(({ item, name }) => ({ item, name, content: contentOf(state.run, item, name) }));
  element("viewer-stage").replaceChildren(...shown.map(({ content }) => content));
  element("viewer-other").hidden = element("viewer-auto").hidden = shown.length < 2;
  show(0);
  element("viewer").showModal();
};

export const close = () => element("viewer").close();

element("viewer-other").addEventListener("click", toggle);
element("viewer-auto").addEventListener("click", () => {
  if (timer) {
    stop();
    return show(current);
  }
  timer = setInterval(toggle, FLICKER);
  element("viewer-auto").setAttribute("aria-pressed", "true");
  element("viewer-keep").hidden = true;
});
element("viewer-zoom").addEventListener("click", () => zoom(!zoomed()));
element("viewer-close").addEventListener("click", close);
element("viewer").addEventListener("close", () => {
  stop();
  zoom(false);
  element("viewer-stage").replaceChildren(); // a film or a sound ends with it
});
element("viewer").addEventListener("keydown", (event) => {
  if (event.target.closest("audio, video")) return;
  if (event.key.toLowerCase() === "f") toggle();
  if (event.key.toLowerCase() === "z") zoom(!zoomed());
});
