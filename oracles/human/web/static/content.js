// What a candidate looks like: a picture, a sound, a film, or text. Text is only ever set as text.

export const addressOf = (run, item) => `/artifact/${encodeURIComponent(run)}/${encodeURIComponent(item.id)}`;

// Calls act once the element comes near the window.
const whenNear = (element, act) => {
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    act();
  }, { rootMargin: "300px" });
  observer.observe(element);
};

// name: what it is called, such as "Candidate A". lazy: loaded when it comes near the window.
export const contentOf = (run, item, name, lazy = false) => {
  const address = addressOf(run, item);
  const kind = item.media_type.split("/")[0];
  if (kind === "image") {
    const image = document.createElement("img");
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 128));
    image.loading = lazy ? "lazy" : "eager"; // before the address, which starts the loading
    return Object.assign(image, { className: "content", alt: name, draggable: false, src: address });
  }
  if (kind === "audio" || kind === "video") {
    const player = document.createElement(kind);
    player.setAttribute("aria-label", name);
    Object.assign(player, { className: "content", controls: true, preload: lazy ? "none" : "metadata", src: address });
    return Object.assign(player, { loop: kind === "video", playsInline: true });
  }
  const text = document.createElement("pre");
  const json = item.media_type.startsWith("application/json");
  text.className = json ? "content json" : "content";
  text.textContent = "…";
  const load = () =>
    fetch(address)
      .then((answer) => (answer.ok ? answer.text() : Promise.reject(answer.status)))
      .then((body) => (text.textContent = json ? JSON.stringify(JSON.parse(body), null, 1) : body))
      .catch(() => (text.textContent = "This candidate can't be shown."));
  if (lazy) whenNear(text, load);
  else load();
  return text;
};
