// The picture, the wipe over it, and the strip of snapshots.
import { byId, element } from "/ui.js";

/** Minimum time between pictures with reduced motion, in ms. */
const CALM = 1500;
const reduced = matchMedia("(prefers-reduced-motion: reduce)");

export class Stage {
  /** Called with the displayed snapshot, or null for the newest picture. */
  onShow = () => {};
  #photo = null;
  #now = null;
  /** Snapshots by id: {id, iteration, path, classes, url, button}, in the order of their iterations. */
  #snapshots = new Map();
  #chosen = null;
  #version = 0;
  #shownAt = 0;
  /** The delayed picture and its timer. */
  #waiting = null;
  #live;
  #ended = false;

  constructor() {
    this.#live = this.#thumbnail("now", () => this.#choose(null));
    byId("strip").append(this.#live);
    byId("scrub").addEventListener("input", () => {
      const snapshots = this.#ordered();
      const at = Number(byId("scrub").value);
      this.#choose(at < snapshots.length ? snapshots[at].id : null);
    });
    for (const mode of ["now", "compare"]) byId(`mode-${mode}`).addEventListener("change", () => this.#layOut());
    const wipe = byId("wipe");
    wipe.addEventListener("input", () => this.#wipe());
    // In WebKit on iOS a finger can only drag the thumb, which is as thin as the edge.
    wipe.addEventListener("pointerdown", (event) => {
      wipe.setPointerCapture(event.pointerId);
      this.#wipeTo(event);
    });
    wipe.addEventListener("pointermove", (event) => {
      if (wipe.hasPointerCapture(event.pointerId)) this.#wipeTo(event);
    });
    new ResizeObserver(() => this.#scroll()).observe(byId("strip"));
    this.#wipe();
    this.#update();
  }

  /** A run begins. */
  begin({ scales }) {
    // Pictures of all scales are shown at the same size, with the aspect ratio of the last one.
    const last = scales.at(-1);
    if (last) document.body.style.setProperty("--ratio", last.width / last.height);
    for (const { url, button } of this.#snapshots.values()) {
      URL.revokeObjectURL(url);
      button.remove();
    }
    this.#snapshots.clear();
    if (this.#chosen !== null) this.onShow(null);
    this.#chosen = null;
    if (this.#waiting) clearTimeout(this.#waiting.timer);
    this.#waiting = null;
    this.#ended = false;
    this.#update();
  }

  photo(blob) {
    if (this.#photo) URL.revokeObjectURL(this.#photo);
    this.#photo = URL.createObjectURL(blob);
    byId("photo").src = this.#photo;
    this.#layOut();
  }

  picture(blob, iteration) {
    const rest = reduced.matches ? this.#shownAt + CALM - Date.now() : 0;
    if (rest > 0 || this.#waiting) {
      const timer = this.#waiting?.timer ?? setTimeout(() => this.#calmly(), rest);
      this.#waiting = { blob, iteration, timer };
      return;
    }
    this.#shownAt = Date.now();
    const old = this.#now;
    this.#now = { url: URL.createObjectURL(blob), iteration };
    this.#live.image.src = this.#now.url;
    this.#live.hidden = false;
    if (this.#chosen === null) this.#update();
    // The browser shows the old one until the new one is decoded.
    if (old) setTimeout(() => URL.revokeObjectURL(old.url), 2000);
  }

  #calmly() {
    const { blob, iteration } = this.#waiting;
    this.#waiting = null;
    this.#shownAt = 0;
    this.picture(blob, iteration);
  }

  snapshot(blob, about) {
    if (this.#snapshots.has(about.id)) return;
    const button = this.#thumbnail(String(about.iteration), () => this.#choose(about.id));
    button.dataset.iteration = about.iteration;
    button.setAttribute("aria-label", `Snapshot after ${about.iteration} iterations`);
    const snapshot = { ...about, url: URL.createObjectURL(blob), button };
    button.image.src = snapshot.url;
    this.#snapshots.set(about.id, snapshot);
    const next = this.#ordered().find((other) => other.iteration > about.iteration);
    byId("strip").insertBefore(button, next?.button ?? this.#live);
    this.#update();
    // The thumbnail has its width only after loading.
    button.image.addEventListener("load", () => this.#chosen === null && this.#scroll());
  }

  /** Removes all snapshots except these. */
  keep(ids) {
    const chosen = this.#snapshots.get(this.#chosen);
    for (const [id, { url, button }] of this.#snapshots) {
      if (ids.includes(id)) continue;
      URL.revokeObjectURL(url);
      button.remove();
      this.#snapshots.delete(id);
    }
    if (chosen && !this.#snapshots.has(chosen.id)) {
      const gap = (snapshot) => Math.abs(snapshot.iteration - chosen.iteration);
      const nearest = this.#ordered().sort((a, b) => gap(a) - gap(b))[0];
      this.#choose(nearest?.id ?? null);
    }
    this.#update();
  }

  end() {
    this.#ended = true;
    this.#update();
  }

  #ordered() {
    return [...this.#snapshots.values()].sort((a, b) => a.iteration - b.iteration || a.id - b.id);
  }

  #thumbnail(text, chosen) {
    const button = element("button", "thumbnail");
    button.type = "button";
    // The keyboard uses the range below: one stop instead of many.
    button.tabIndex = -1;
    button.hidden = text === "now";
    button.image = element("img");
    button.image.alt = "";
    button.append(button.image, element("span", "", text));
    button.addEventListener("click", chosen);
    return button;
  }

  #choose(id) {
    if (this.#chosen === id) return;
    this.#chosen = id;
    this.#update();
    this.#scroll();
    this.onShow(this.#snapshots.get(id) ?? null);
  }

  /** Scrolls the strip, but not the page, to the chosen picture. */
  #scroll() {
    const button = this.#snapshots.get(this.#chosen)?.button ?? this.#live;
    const strip = byId("strip");
    strip.scrollLeft = button.offsetLeft - strip.offsetLeft - (strip.clientWidth - button.offsetWidth) / 2;
  }

  /** Shows the chosen picture. */
  #update() {
    const snapshots = this.#ordered();
    const chosen = this.#snapshots.get(this.#chosen) ?? null;
    const shown = chosen ?? this.#now;
    const picture = byId("picture");
    const what = chosen ? "snapshot" : this.#ended ? "last picture" : "picture";
    if (shown && picture.getAttribute("src") !== shown.url) {
      picture.src = shown.url;
      this.#version += 1;
      picture.dataset.version = this.#version;
    }
    if (shown) {
      picture.dataset.iteration = shown.iteration;
      picture.alt = `The ${what} after ${shown.iteration} iterations`;
      const saved = chosen?.path ? `, ${chosen.path}` : "";
      byId("caption").textContent = chosen
        ? `Snapshot after ${chosen.iteration} iterations${saved}`
        : `${this.#ended ? "Last picture, after" : "Now, after"} ${shown.iteration} iterations`;
    }
    byId("corner").textContent = chosen ? `After ${chosen.iteration}` : "Now";
    byId("empty").hidden = shown !== null;
    const scrub = byId("scrub");
    scrub.disabled = snapshots.length === 0;
    scrub.max = snapshots.length;
    scrub.value = chosen ? snapshots.indexOf(chosen) : snapshots.length;
    scrub.setAttribute("aria-valuetext", chosen ? `after ${chosen.iteration} iterations` : "now");
    for (const { id, button } of snapshots) mark(button, id === this.#chosen);
    mark(this.#live, chosen === null);
    this.#layOut();
  }

  #layOut() {
    const compare = byId("mode-compare").checked && this.#photo !== null;
    byId("frame").classList.toggle("compare", compare);
    byId("wipe").hidden = !compare;
    byId("photo").hidden = !compare;
  }

  #wipeTo({ clientX }) {
    const { left, width } = byId("frame").getBoundingClientRect();
    byId("wipe").value = (100 * (clientX - left)) / width;
    this.#wipe();
  }

  #wipe() {
    const wipe = byId("wipe");
    byId("frame").style.setProperty("--wipe", `${wipe.value}%`);
    wipe.setAttribute("aria-valuetext", `${wipe.value} percent photo`);
  }
}

function mark(button, chosen) {
  if (chosen) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}
