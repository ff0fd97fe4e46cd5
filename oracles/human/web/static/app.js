// The page's course: who, wait, rank, sent, and round again. What was begun is kept in this browser until it is sent.

import { Board } from "./board.js";
import * as orders from "./order.js";

const element = (id) => document.getElementById(id);
const BETWEEN_LOOKS = 1500; // milliseconds

const state = { run: "", rater: "", round: null, csrf: "", undoSeconds: 10, away: false, looking: 0, ticking: 0 };

// --- talking to the server -----------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const ask = async (path, body) => {
  const post = body && {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": state.csrf },
    body: JSON.stringify({ run: state.run, rater: state.rater, ...body }),
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

// --- what this browser remembers -----------------------------------------------------------------------------------

const keyOf = (...parts) => `blackbox:${JSON.stringify(parts)}`;
const draftKey = () => keyOf("draft", state.run, state.rater, state.round.id);
const sentKey = () => keyOf("sent", state.run, state.rater);

const recall = (key) => {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
};
const keep = (key, value) => localStorage.setItem(key, JSON.stringify(value));
const forget = (key) => localStorage.removeItem(key);

const randomName = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");

// --- saying and showing --------------------------------------------------------------------------------------------

const say = (text) => (element("live").textContent = text);

const warn = (text) => {
  element("notice").textContent = text;
  element("notice").hidden = !text;
  if (text) element("notice").scrollIntoView({ block: "nearest" });
};

const show = (name) => {
  for (const part of ["name-form", "waiting", "sent", "board"]) element(part).hidden = part !== name;
  element("bar").hidden = name !== "board";
  element("who").hidden = name === "name-form";
  element("who").textContent = state.rater;
  element("who").setAttribute("aria-label", `${state.rater}: change who you are`);
};

const count = (order) => {
  const placed = order.ranked.flat().length;
  const total = placed + order.tray.length + order.skipped.length;
  const rest = order.tray.length ? `, ${order.tray.length} below them` : "";
  element("count").textContent = placed ? `${placed} of ${total} in order${rest}` : "Rank at least the best one";
  element("submit").disabled = !placed && order.tray.length > 0;
};

const board = new Board((order) => {
  keep(draftKey(), { order }); // a changed order is another answer: it has no token yet
  count(order);
}, say);

// --- the course ----------------------------------------------------------------------------------------------------

const looked = async () => {
  clearTimeout(state.looking);
  const sent = recall(sentKey());
  if (sent && sent.until > Date.now()) return showSent(sent);
  forget(sentKey());
  const query = new URLSearchParams({ run: state.run, rater: state.rater });
  const { round } = await ask(`/api/round?${query}`);
  if (round) return showRound(round);
  if (element("waiting").hidden) say("Nothing to rank right now. This page looks for the next candidates by itself.");
  show("waiting");
  state.looking = setTimeout(look, BETWEEN_LOOKS);
};

// Look for what there is to do; while the server is away, again and again.
const look = async () => {
  try {
    await looked();
    if (state.away) warn("");
    state.away = false;
  } catch (error) {
    warn(error.message);
    state.away = error.status === 0;
    if (state.away) state.looking = setTimeout(look, BETWEEN_LOOKS);
  }
};

const showRound = (round) => {
  state.round = round;
  const ids = round.items.map((item) => item.id);
  const draft = recall(draftKey());
  const order = draft && orders.fits(draft.order, ids) ? draft.order : orders.fresh(ids);
  show("board");
  board.open(state.run, round.items, order);
  count(order);
  say(`${ids.length} candidates to rank.`);
  if (document.activeElement === document.body) element("board").focus({ preventScroll: true });
};

const showSent = (sent) => {
  show("sent");
  say(`Sent. You can undo it for ${Math.ceil((sent.until - Date.now()) / 1000)} seconds.`);
  element("sent-title").focus(); // not a button: a key held down must neither undo nor seal
  const tick = () => {
    const left = Math.ceil((sent.until - Date.now()) / 1000);
    element("countdown").textContent = `You can take it back for ${left} s, or until you go on.`;
    if (left > 0 || state.ticking === 0) return;
    stopTicking();
    forget(sentKey());
    look();
  };
  stopTicking();
  state.ticking = setInterval(tick, 250);
  tick();
};

const stopTicking = () => {
  clearInterval(state.ticking);
  state.ticking = 0;
};

const guarded = (act) => async () => {
  warn("");
  try {
    await act();
  } catch (error) {
    warn(error.message);
    if (error.status === 409) {
      stopTicking();
      forget(sentKey());
      if (state.round) forget(draftKey());
      await look();
    }
  }
};

// Sends what is on the board; `before` is what comes back if it is undone.
const send = async (before) => {
  const { order } = board;
  const token = recall(draftKey())?.token ?? randomName();
  keep(draftKey(), { order, token }); // sent again after a lost connection, it is the same answer
  const message = { round: state.round.id, groups: orders.groupsOf(order), skipped: order.skipped, token };
  const { answer } = await ask("/api/submit", message);
  forget(draftKey());
  keep(sentKey(), { answer, order: before, round: state.round.id, until: Date.now() + 1000 * state.undoSeconds });
  await looked();
};

const submit = guarded(async () => {
  if (!element("submit").disabled && !element("bar").hidden) await send(board.order);
});

element("submit").addEventListener("click", submit);
element("skip-all").addEventListener("click", guarded(async () => {
  const before = board.order;
  board.set(orders.allSkipped(before));
  await send(before);
}));
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
});

element("undo").addEventListener("click", guarded(async () => {
  const sent = recall(sentKey());
  await ask("/api/undo", { answer: sent.answer });
  stopTicking();
  keep(keyOf("draft", state.run, state.rater, sent.round), { order: sent.order });
  forget(sentKey());
  await looked();
  say("Taken back. You can change your order and submit it again.");
}));

element("next").addEventListener("click", guarded(async () => {
  await ask("/api/seal", {});
  stopTicking();
  forget(sentKey());
  await looked();
}));

element("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = element("name").value.trim();
  if (!name) return;
  state.rater = name;
  keep(keyOf("rater"), name);
  warn("");
  look();
});

element("who").addEventListener("click", () => {
  clearTimeout(state.looking);
  stopTicking();
  element("name").value = state.rater;
  show("name-form");
  element("name").focus();
});

element("run").addEventListener("change", () => {
  stopTicking();
  state.run = element("run").value;
  keep(keyOf("run"), state.run);
  if (state.rater) look();
});

element("help-button").addEventListener("click", () => element("help").showModal());
element("help-close").addEventListener("click", () => element("help").close());

const start = async () => {
  const found = await ask("/api/runs");
  Object.assign(state, { csrf: found.csrf, undoSeconds: found.undo_seconds });
  const before = recall(keyOf("run"));
  state.run = found.runs.includes(before) ? before : found.runs[0];
  state.rater = recall(keyOf("rater")) ?? "";
  element("run").replaceChildren(...found.runs.map((name) => new Option(name, name, false, name === state.run)));
  element("run-label").hidden = found.runs.length < 2;
  if (state.rater) return look();
  show("name-form");
  element("name").focus();
};

start().catch((error) => warn(error.message));
