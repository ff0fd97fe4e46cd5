// The candidates on the page: drawn from an order, moved by keys, buttons and dragging.

import { contentOf } from "./content.js";
import * as drag from "./drag.js";
import { pinButton, togglePin } from "./keeping.js";
import * as orders from "./order.js";
import { element, state } from "./page.js";
import * as viewer from "./viewer.js";

const letterAt = (index) => (index < 26 ? String.fromCharCode(65 + index) : String(index + 1));

export class Board {
  // changed(order) is called after each move; say(text) speaks to a screen reader.
  constructor(changed, say) {
    this.changed = changed;
    this.say = say;
    this.order = orders.fresh([]);
    this.cards = new Map();
    this.focused = []; // ids, the latest first
    element("board").addEventListener("keydown", (event) => this.onKey(event));
    element("board").addEventListener("focusin", (event) => this.onFocus(event.target.closest(".card")));
    drag.enable(element("board"), (id, target) => this.onDrop(id, target));
  }

  open(items, order) {
    this.items = new Map(items.map((item, index) => [item.id, { item, letter: letterAt(index) }]));
    this.order = order;
    this.focused = [];
    this.cards = new Map(items.map((item) => [item.id, this.makeCard(item)]));
    this.draw();
  }

  // --- drawing -------------------------------------------------------------------------------------------------

  makeCard(item) {
    const { letter } = this.items.get(item.id);
    const card = Object.assign(document.createElement("div"), { className: "card", tabIndex: 0 });
    card.dataset.id = item.id;
    card.dataset.letter = letter;
    card.setAttribute("role", "group");
    const grip = Object.assign(document.createElement("div"), { className: "grip" });
    const [named, dots] = [letter, "⠿"].map((textContent) =>
      Object.assign(document.createElement("span"), { textContent, ariaHidden: "true" }));
    const pin = pinButton(item, `Candidate ${letter}`);
    pin.tabIndex = -1;
    grip.append(named, dots, pin);
    const tools = Object.assign(document.createElement("div"), { className: "tools" });
    const acts = {
      better: (id) => this.set(orders.move(this.order, id, -1), id),
      worse: (id) => this.set(orders.move(this.order, id, 1), id),
      tie: (id) => this.set(orders.toggleTie(this.order, id), id),
      zoom: (id) => this.look([id]),
      aside: (id) => this.set(orders.putAside(this.order, id, this.asideOf(id)), id),
    };
    for (const [name, act] of Object.entries(acts)) {
      const button = Object.assign(document.createElement("button"), { type: "button", tabIndex: -1 });
      button.dataset.act = name;
      button.addEventListener("click", () => act(item.id));
      tools.append(button);
    }
    card.append(grip, contentOf(state.run, item, `Candidate ${letter}`), tools);
    return card;
  }

  asideOf(id) {
    return orders.where(this.order, id).zone === "tray" ? "skipped" : "tray";
  }

  draw() {
    const groups = this.order.ranked.map((ids, index) => {
      const group = Object.assign(document.createElement("li"), { className: ids.length > 1 ? "group tie" : "group" });
      group.dataset.rank = `${index + 1}${ids.length > 1 ? " tie" : ""}`;
      group.append(...ids.map((id) => this.cards.get(id)));
      return group;
    });
    element("ranked").replaceChildren(...groups);
    for (const zone of ["tray", "skipped"]) {
      element(zone).replaceChildren(...this.order[zone].map((id) => this.cards.get(id)));
    }
    for (const [id, card] of this.cards) this.label(id, card);
  }

  label(id, card) {
    const { zone, group } = orders.where(this.order, id);
    card.setAttribute("aria-label", this.describe(id));
    const ranked = zone === "ranked";
    const looks = {
      better: ranked ? ["◀", "Better", group === 0 && !this.order.ranked[0][1]] : ["+", "Add to your order", false],
      worse: ["▶", "Worse", !ranked || group === this.order.ranked.length - 1 && !this.order.ranked[group][1]],
      tie: ["=", "Tie", this.order.ranked.length < (ranked && !this.order.ranked[group][1] ? 2 : 1)],
      zoom: ["⤢", "Look at it large", false],
      aside: zone === "tray" ? ["✕", "Skip", false] : ["↩", "Back to not ranked", false],
    };
    for (const button of card.querySelectorAll(".tools button")) {
      const [sign, words, disabled] = looks[button.dataset.act];
      Object.assign(button, { textContent: sign, title: words, disabled });
      button.setAttribute("aria-label", `${words}: candidate ${card.dataset.letter}`);
    }
  }

  describe(id) {
    const { zone, group, tied } = orders.where(this.order, id);
    const name = `Candidate ${this.items.get(id).letter}`;
    if (zone !== "ranked") return `${name}, ${zone === "tray" ? "not ranked" : "skipped"}`;
    const others = this.order.ranked[group].filter((other) => other !== id);
    const ties = tied ? `, tied with ${others.map((other) => this.items.get(other).letter).join(", ")}` : "";
    return `${name}, place ${group + 1} of ${this.order.ranked.length}${ties}`;
  }

  // --- moving --------------------------------------------------------------------------------------------------

  set(order, id) {
    this.order = order;
    this.draw();
    if (id) {
      this.cards.get(id).focus({ preventScroll: true }); // taken out and put back, it lost the focus
      this.cards.get(id).scrollIntoView({ block: "nearest" });
      this.say(this.describe(id));
    }
    this.changed(order);
  }

  onDrop(id, target) {
    if (target.zone !== "ranked") this.set(orders.putAside(this.order, id, target.zone), id);
    else if (target.side === "end") this.set(orders.placeLast(this.order, id), id);
    else this.set(orders.placeBy(this.order, id, target.anchor, target.side), id);
  }

  onFocus(card) {
    if (!card) return;
    this.focused = [card.dataset.id, ...this.focused.filter((id) => id !== card.dataset.id)];
  }

  onKey(event) {
    const card = event.target.closest(".card");
    if (!card || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("audio, video")) return;
    if (event.target !== card && (event.key === "Enter" || event.key === " ")) return; // a button's own
    const id = card.dataset.id;
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    const key = event.key.toLowerCase();
    if (step && event.shiftKey) this.set(orders.move(this.order, id, step), id);
    else if (step) this.walk(card, event.key, step);
    else if (key === "enter") this.set(orders.placeLast(this.order, id), id);
    else if (/^[1-9]$/.test(key)) this.set(orders.placeAt(this.order, id, Number(key) - 1), id);
    else if (key === "t") this.set(orders.toggleTie(this.order, id), id);
    else if (key === "u" || key === "backspace") this.set(orders.putAside(this.order, id, "tray"), id);
    else if (key === "s" || key === "delete") this.set(orders.putAside(this.order, id, "skipped"), id);
    else if (key === "p") togglePin(this.items.get(id).item, `Candidate ${card.dataset.letter}`);
    else if (key === "z") this.look([id]);
    else if (key === "f") this.look([id, this.partner(id)]);
    else return;
    event.preventDefault();
  }

  // Left and right follow the reading order; up and down go to the nearest card in that direction.
  walk(card, key, step) {
    const all = [...element("board").querySelectorAll(".card")];
    let next = all[all.indexOf(card) + step];
    if (key === "ArrowUp" || key === "ArrowDown") {
      const from = card.getBoundingClientRect();
      const far = (other) => {
        const box = other.getBoundingClientRect();
        const down = step * (box.top - from.top);
        return down < 10 ? Infinity : down + 2 * Math.abs(box.left - from.left);
      };
      next = all.reduce((best, other) => (far(other) < far(best) ? other : best), card);
    }
    next?.focus();
  }

  partner(id) {
    const ids = [...this.items.keys()];
    return this.focused.find((other) => other !== id) ?? ids[(ids.indexOf(id) + 1) % ids.length];
  }

  look(ids) {
    const things = [...new Set(ids)].map((id) => this.items.get(id));
    viewer.open(things.map(({ item, letter }) => ({ item, name: `Candidate ${letter}` })));
  }
}
