// Where things stand: rounds, answers, rendering; and how far the next candidates lie.

import { ask, element, say, warn } from "./page.js";

const EVERY = { board: 2000, waiting: 1500 }; // milliseconds between looks

export const between = (what) => EVERY[what];

const answeredOf = ({ answered, quorum }) => (quorum > 1 ? `${answered} of ${quorum} have answered` : "");

export const draw = (progress) => {
  const { done, mine, open, rendering } = progress;
  const parts = [`${done} ${done === 1 ? "round" : "rounds"} done`, `${mine} answered by you`];
  if (open) parts.push(answeredOf(progress));
  if (rendering) parts.push(`rendering ${rendering[0]} of ${rendering[1]}`);
  element("progress").textContent = parts.filter(Boolean).join(" · ");
  drawRadius(progress.factor, progress.factor_waits);
  element("status").hidden = false;
};

const drawRadius = (factor, waits) => {
  element("factor").textContent = `× ${Number(factor.toPrecision(2))}`;
  element("factor-waits").hidden = !waits;
};

// [title, words] for somebody who has nothing to rank.
export const whyWaiting = (progress) => {
  const { open, held, rendering } = progress;
  const byItself = "This page looks for the next candidates by itself.";
  if (rendering) return ["The next candidates are being made", `Rendering ${rendering[0]} of ${rendering[1]}. ${byItself}`];
  if (held) return ["Others are ranking this round", `You are let in if one of them doesn't answer in time. ${byItself}`];
  if (open) return ["You have answered this round", `${answeredOf(progress) || "It is being acted on"}. ${byItself}`];
  return ["Nothing to rank right now", `The next candidates are being made, or the run is at rest. ${byItself}`];
};

const wishFor = (wish) => async () => {
  warn("");
  try {
    const { factor } = await ask("/api/radius", { wish });
    drawRadius(factor, true);
    say(`${wish}: the radius is ${element("factor").textContent} from the next round on.`);
  } catch (error) {
    warn(error.message);
  }
};
for (const wish of ["closer", "wilder"]) element(wish).addEventListener("click", wishFor(wish));
