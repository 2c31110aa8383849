// Top classes of photo and picture, side by side.
import { byId, element, number, percent } from "/ui.js";

export class Classes {
  #photo = [];
  #report = null;
  #snapshot = null;

  begin(photo) {
    this.#photo = photo;
    this.#report = null;
    this.#snapshot = null;
    this.#draw();
  }

  report(report) {
    this.#report = report;
    this.#draw();
  }

  /** Shows the classes of a snapshot, or the newest ones. */
  show(snapshot) {
    this.#snapshot = snapshot;
    this.#draw();
  }

  #draw() {
    const snapshot = this.#snapshot?.classes.length ? this.#snapshot : null;
    const picture = snapshot?.classes ?? this.#report?.classes ?? [];
    byId("classes").hidden = this.#photo.length === 0 && picture.length === 0;
    const iteration = snapshot?.iteration ?? this.#report?.iteration;
    byId("picture-side").textContent = iteration === undefined ? "Picture" : `Picture, ${iteration}`;
    fill(byId("photo-classes"), this.#photo, picture);
    fill(byId("picture-classes"), picture, this.#photo);
    byId("distance").textContent = snapshot ? "–" : number(this.#report?.classDistance);
  }
}

/** Fills one list and marks the classes that are also in the other one. */
function fill(list, classes, other) {
  while (list.children.length > classes.length) list.lastChild.remove();
  classes.forEach(([label, probability], at) => {
    const item = list.children[at] ?? list.appendChild(bar());
    const [name, value, line] = item.children;
    name.textContent = label;
    name.title = label;
    value.textContent = percent(probability);
    line.firstChild.style.width = `${Math.max(0, Math.min(1, probability ?? 0)) * 100}%`;
    item.classList.toggle("common", other.some(([otherLabel]) => otherLabel === label));
  });
}

function bar() {
  const item = element("li");
  const line = element("span", "bar");
  line.append(element("span"));
  item.append(element("span", "label"), element("span", "value"), line);
  return item;
}
