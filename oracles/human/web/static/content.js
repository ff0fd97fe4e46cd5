// What a candidate looks like: a picture, a sound, a film, or text. Text is only ever set as text.

export const addressOf = (run, item) => `/artifact/${encodeURIComponent(run)}/${encodeURIComponent(item.id)}`;

export const contentOf = (run, item, letter) => {
  const address = addressOf(run, item);
  const kind = item.media_type.split("/")[0];
  if (kind === "image") {
    const image = document.createElement("img");
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 128));
    return Object.assign(image, { className: "content", src: address, alt: `Candidate ${letter}`, draggable: false });
  }
  if (kind === "audio" || kind === "video") {
    const player = document.createElement(kind);
    return Object.assign(player, { className: "content", src: address, controls: true, preload: "metadata" });
  }
  const text = document.createElement("pre");
  const json = item.media_type.startsWith("application/json");
  text.className = json ? "content json" : "content";
  text.textContent = "…";
  fetch(address)
    .then((answer) => (answer.ok ? answer.text() : Promise.reject(answer.status)))
    .then((body) => (text.textContent = json ? JSON.stringify(JSON.parse(body), null, 1) : body))
    .catch(() => (text.textContent = "This candidate can't be shown."));
  return text;
};
