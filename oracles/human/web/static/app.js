// The page's course: who, wait, rank, sent, and round again. What was begun is kept in this browser until it is sent.

import { Board } from "./board.js";
import * as history from "./history.js";
import { forget, keep, keyOf, randomName, recall } from "./memory.js";
import * as orders from "./order.js";
import { ask, element, get, say, state, warn } from "./page.js";
import * as standing from "./standing.js";
import * as viewer from "./viewer.js";

const timers = { look: 0, tick: 0 };
let away = false; // whether the server is

const draftKey = () => keyOf("draft", state.run, state.rater, state.round.id);
const sentKey = () => keyOf("sent", state.run, state.rater);

const show = (name) => {
  for (const part of ["name-form", "waiting", "sent", "board"]) element(part).hidden = part !== name;
  element("bar").hidden = name !== "board";
  const known = name !== "name-form";
  element("who").hidden = element("history-button").hidden = !known;
  if (!known) element("status").hidden = true;
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

// --- the course ------------------------------------------------------------------------------------------------------

const looked = async () => {
  clearTimeout(timers.look);
  const sent = recall(sentKey());
  if (sent && sent.until > Date.now()) return showSent(sent);
  forget(sentKey());
  const { round, progress } = await get("/api/round");
  standing.draw(progress);
  if (round) showRound(round);
  else showWaiting(progress);
  timers.look = round ? setTimeout(watch, standing.between("board")) : setTimeout(look, standing.between("waiting"));
};

// Look for what there is to do; while the server is away, again and again.
const look = async () => {
  try {
    await looked();
    if (away) warn("");
    away = false;
  } catch (error) {
    warn(error.message);
    away = error.status === 0;
    if (away) timers.look = setTimeout(look, standing.between("waiting"));
  }
};

// While a board is open: where things stand, and whether its round is over.
const watch = async () => {
  const watched = state.round;
  try {
    const progress = await get("/api/progress", { round: watched.check === null ? watched.id : "" });
    if (state.round !== watched || element("board").hidden) return;
    standing.draw(progress);
    if (watched.check === null && progress.over) return moveOn(progress.over);
  } catch {
    // the server is away for a moment; submitting would tell
  }
  clearTimeout(timers.look);
  timers.look = setTimeout(watch, standing.between("board"));
};

// Leave a round that is over.
const moveOn = async (why) => {
  forget(draftKey());
  viewer.close();
  warn(why);
  await history.refresh();
  await look();
};

const showWaiting = (progress) => {
  const [title, words] = standing.whyWaiting(progress);
  if (element("waiting").hidden || element("waiting-title").textContent !== title) say(`${title}. ${words}`);
  element("waiting-title").textContent = title;
  element("waiting-words").textContent = words;
  show("waiting");
};

const showRound = (round) => {
  state.round = round;
  const ids = round.items.map((item) => item.id);
  const draft = recall(draftKey());
  const order = draft && orders.fits(draft.order, ids) ? draft.order : orders.fresh(ids);
  element("check-hint").hidden = round.check === null;
  element("skip-all").textContent = round.check === null ? "All bad: skip the round" : "I can't say";
  show("board");
  board.open(round.items, order);
  count(order);
  say(round.check === null ? `${ids.length} candidates to rank.` : element("check-hint").textContent);
  if (document.activeElement === document.body) element("board").focus({ preventScroll: true });
};

const showSent = (sent) => {
  show("sent");
  say(`Sent. You can undo it for ${Math.ceil((sent.until - Date.now()) / 1000)} seconds.`);
  element("sent-title").focus(); // not a button: a key held down must neither undo nor seal
  const tick = () => {
    const left = Math.ceil((sent.until - Date.now()) / 1000);
    element("countdown").textContent = `You can take it back for ${left} s, or until you go on.`;
    if (left > 0 || timers.tick === 0) return;
    stopTicking();
    forget(sentKey());
    look();
  };
  stopTicking();
  timers.tick = setInterval(tick, 250);
  tick();
};

const stopTicking = () => {
  clearInterval(timers.tick);
  timers.tick = 0;
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

// --- sending ---------------------------------------------------------------------------------------------------------

// Sends what is on the board; `before` is what comes back if it is undone.
const send = async (before) => {
  const { order } = board;
  const groups = orders.groupsOf(order);
  if (state.round.check !== null) {
    await ask("/api/check", { check: state.round.check, groups });
    forget(draftKey());
    return looked();
  }
  const token = recall(draftKey())?.token ?? randomName();
  keep(draftKey(), { order, token }); // sent again after a lost connection, it is the same answer
  const sent = await ask("/api/submit", { round: state.round.id, groups, skipped: order.skipped, token });
  forget(draftKey());
  const until = Date.now() + 1000 * sent.undo_seconds;
  keep(sentKey(), { answer: sent.answer, order: before, round: state.round.id, until });
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
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !document.querySelector("dialog[open]")) submit();
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

history.whenGoneOn(async () => {
  stopTicking();
  forget(sentKey());
  if (state.round) forget(draftKey());
  await look();
  say("The search goes on from there. The next candidates are being made.");
});

// --- who, which run, help --------------------------------------------------------------------------------------------

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
  clearTimeout(timers.look);
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
  state.csrf = found.csrf;
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
