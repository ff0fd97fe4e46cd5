// Dragging by pointer events: mouse and pen by any part of a card, fingers by its top strip, so that the page scrolls.

const START = 6; // pixels before a press becomes a drag
const EDGE = 70; // pixels from the window's edge in which it scrolls

// What lies under a point: {zone, anchor, side, element}; side is "before", "after", "onto" or "end".
const targetAt = (x, y) => {
  const under = document.elementFromPoint(x, y);
  const group = under?.closest(".group");
  if (group) {
    const box = group.getBoundingClientRect();
    const share = (x - box.left) / box.width;
    const side = share < 0.28 ? "before" : share > 0.72 ? "after" : "onto";
    return { zone: "ranked", anchor: group.querySelector(".card").dataset.id, side, element: group };
  }
  const zone = under?.closest(".zone");
  if (!zone) return null;
  const later = [...zone.querySelectorAll(".group")].find((other) => {
    const box = other.getBoundingClientRect();
    return box.top > y || (box.bottom > y && box.left > x);
  });
  if (!later) return { zone: zone.dataset.zone, side: "end", element: zone };
  return { zone: "ranked", anchor: later.querySelector(".card").dataset.id, side: "before", element: later };
};

// drop(id, target) is called once a card is let go over something.
export const enable = (board, drop) => {
  board.addEventListener("pointerdown", (press) => {
    const card = press.target.closest(".card");
    if (!card || press.button !== 0 || press.target.closest("button, audio, video, pre")) return;
    if (press.pointerType === "touch" && !press.target.closest(".grip")) return;
    const ending = new AbortController();
    const listen = (name, act) => document.addEventListener(name, act, { signal: ending.signal });
    let ghost = null;
    let target = null;

    const mark = (next) => {
      target?.element.classList.remove("over", "before", "after", "onto");
      target = next;
      target?.element.classList.add(target.side === "end" ? "over" : target.side);
    };
    const finish = (dropped) => {
      ending.abort();
      const last = target;
      mark(null);
      ghost?.remove();
      card.classList.remove("dragged");
      if (dropped && ghost && last) drop(card.dataset.id, last);
    };

    listen("pointermove", (event) => {
      if (event.pointerId !== press.pointerId) return;
      if (!ghost) {
        if (Math.hypot(event.clientX - press.clientX, event.clientY - press.clientY) < START) return;
        ghost = card.cloneNode(true);
        ghost.classList.add("ghost");
        ghost.removeAttribute("tabindex");
        ghost.setAttribute("aria-hidden", "true");
        document.body.append(ghost);
        card.classList.add("dragged");
      }
      ghost.style.transform = `translate(${event.clientX - 40}px, ${event.clientY - 16}px)`;
      if (event.clientY < EDGE) scrollBy(0, -12);
      if (event.clientY > innerHeight - EDGE) scrollBy(0, 12);
      mark(targetAt(event.clientX, event.clientY));
    });
    listen("pointerup", (event) => event.pointerId === press.pointerId && finish(true));
    listen("pointercancel", () => finish(false));
    listen("keydown", (event) => event.key === "Escape" && finish(false));
  });
};
