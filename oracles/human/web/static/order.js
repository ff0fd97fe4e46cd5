// An order in the making: {ranked: [[id, ...], ...] best first, tray: [id, ...], skipped: [id, ...]}.
// Each function gives a new order and leaves the one it was given alone.

export const fresh = (ids) => ({ ranked: [], tray: [...ids], skipped: [] });

// Whether an order, kept from before, speaks of exactly these candidates.
export const fits = (order, ids) => {
  const named = [...order.ranked.flat(), ...order.tray, ...order.skipped];
  return named.length === ids.length && new Set(named).size === ids.length && ids.every((id) => named.includes(id));
};

export const where = (order, id) => {
  const group = order.ranked.findIndex((ids) => ids.includes(id));
  if (group >= 0) return { zone: "ranked", group, tied: order.ranked[group].length > 1 };
  return { zone: order.tray.includes(id) ? "tray" : "skipped", group: -1, tied: false };
};

const without = (order, id) => ({
  ranked: order.ranked.map((group) => group.filter((other) => other !== id)).filter((group) => group.length),
  tray: order.tray.filter((other) => other !== id),
  skipped: order.skipped.filter((other) => other !== id),
});

export const placeAt = (order, id, index) => {
  const rest = without(order, id);
  return { ...rest, ranked: rest.ranked.toSpliced(Math.min(index, rest.ranked.length), 0, [id]) };
};

export const placeLast = (order, id) => placeAt(order, id, Infinity);

// side: "before" or "after" the group that `anchor` is in, or "onto" it, which is a tie.
export const placeBy = (order, id, anchor, side) => {
  if (anchor === id) return order;
  const rest = without(order, id);
  const index = rest.ranked.findIndex((group) => group.includes(anchor));
  if (side === "onto") return { ...rest, ranked: rest.ranked.with(index, [...rest.ranked[index], id]) };
  return { ...rest, ranked: rest.ranked.toSpliced(side === "before" ? index : index + 1, 0, [id]) };
};

// One place better (-1) or worse (+1). Out of a tie it moves just past those it was tied with.
export const move = (order, id, step) => {
  const { zone, group, tied } = where(order, id);
  if (zone !== "ranked") return placeLast(order, id);
  if (tied) return placeAt(order, id, step < 0 ? group : group + 1);
  return placeAt(order, id, Math.max(0, group + step));
};

// Tie with the group before (the first: with the one after); a tied one leaves its tie.
export const toggleTie = (order, id) => {
  const { zone, group, tied } = where(order, id);
  if (tied) return placeAt(order, id, group + 1);
  const others = order.ranked.filter((ids) => !ids.includes(id));
  if (!others.length) return order;
  const partner = zone === "ranked" ? others[Math.max(0, group - 1)] : others.at(-1);
  return placeBy(order, id, partner[0], "onto");
};

export const putAside = (order, id, zone) => {
  const rest = without(order, id);
  return { ...rest, [zone]: [...rest[zone], id] };
};

export const allSkipped = (order) => ({
  ranked: [], tray: [], skipped: [...order.ranked.flat(), ...order.tray, ...order.skipped],
});

// What is sent: those left in the tray come last, without an order among them.
export const groupsOf = (order) => (order.tray.length ? [...order.ranked, order.tray] : order.ranked);
