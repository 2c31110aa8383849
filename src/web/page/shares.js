// The sliders: a share of the gradient for each adjustable group.
import { byId, element, heading, percent, tone, wholePercents } from "/ui.js";

/** Minimum time between messages of the sliders, in ms. */
const THROTTLE = 100;
/** Time after the last input (ms) in which the sliders don't follow the run or other viewers. */
const HANDS_OFF = 1500;

/** Sliders that add up to 100 %: moving one scales the others. */
export class Shares {
  #send;
  /** Names of the adjustable groups, in order. */
  #names = [];
  /** The elements of each: {slider, tick, requested, measured}. */
  #rows = new Map();
  #values = new Map();
  /** The other sliders' values when a slider was grabbed; their proportions are preserved. */
  #grip = null;
  #enabled = false;
  /** False while the run uses fixed weights and no viewer has requested shares. */
  #stated = false;
  #measured = new Map();
  #touched = 0;
  #sentAt = 0;
  #timer = 0;
  /** Timer that applies updates received while a slider was in use. */
  #later = 0;

  constructor(send) {
    this.#send = send;
  }

  begin({ groups }) {
    clearTimeout(this.#later);
    const adjustable = groups.filter((group) => group.adjustable);
    const names = adjustable.map((group) => group.name);
    // Sliders are reused if the groups are the same, so a reconnection doesn't interrupt dragging.
    if (names.length !== this.#names.length || names.some((name, at) => name !== this.#names[at])) {
      this.#names = names;
      this.#grip = null;
      this.#rows.clear();
      byId("sliders").replaceChildren();
      groups.forEach((group, at) => {
        if (group.adjustable) this.#add(group, tone(at));
      });
    }
    this.#stated = adjustable.some((group) => group.share !== null);
    this.#measured.clear();
    this.#touched = 0;
    this.#values = new Map(names.map((name) => [name, 0]));
    this.#take(new Map(adjustable.map((group) => [group.name, group.share])));
    this.#say(
      names.length < 2
        ? "The shares of this run can’t be changed."
        : this.#stated
          ? "Changes take effect within an iteration or two."
          : "This run uses fixed weights. Moving a slider switches it to shares.",
    );
    this.enable(this.#enabled);
    this.#draw();
  }

  enable(enabled) {
    this.#enabled = enabled;
    for (const { slider } of this.#rows.values()) slider.disabled = !enabled || this.#names.length < 2;
  }

  report({ groups }) {
    // Not every report has gradient shares.
    if (groups.some((group) => Number.isFinite(group.gradientShare))) {
      this.#measured = new Map(groups.map((group) => [group.name, group.gradientShare]));
    }
    if (!this.#stated && this.#handsOff()) this.#take(this.#measured);
    this.#draw();
  }

  /** A viewer, perhaps this one, requested shares. */
  requested(shares) {
    this.#stated = true;
    this.#say("Requested, not in effect yet.", "requested");
    if (this.#follows(() => this.requested(shares))) this.#take(new Map(shares));
    this.#draw();
  }

  inEffect({ iteration, shares }) {
    if (shares.length === 0) return;
    this.#stated = true;
    const current = new Map(shares);
    if (this.#follows(() => this.inEffect({ iteration, shares }))) this.#take(current);
    const percents = wholePercents(this.#names.map((name) => current.get(name) ?? 0));
    const same = this.#names.every((name, at) => Math.abs(this.#values.get(name) * 100 - percents[at]) < 1.01);
    if (same) this.#say(iteration > 0 ? `In effect since iteration ${iteration}.` : "In effect from the start.", "in-effect");
    this.#draw();
  }

  /** Returns true if the sliders may follow the run; else `again` is called later, replacing an earlier one. */
  #follows(again) {
    clearTimeout(this.#later);
    if (this.#handsOff()) return true;
    this.#later = setTimeout(again, this.#touched + HANDS_OFF + 1 - Date.now());
    return false;
  }

  #handsOff() {
    return Date.now() - this.#touched > HANDS_OFF;
  }

  /** Sets the sliders to shares in any unit. */
  #take(shares) {
    const values = this.#names.map((name) => Math.max(0, shares.get(name) ?? 0));
    const sum = values.reduce((a, b) => a + b, 0);
    if (!(sum > 0)) return;
    this.#names.forEach((name, at) => this.#values.set(name, values[at] / sum));
  }

  #move(name, value) {
    this.#touched = Date.now();
    const others = this.#names.filter((other) => other !== name);
    if (this.#grip?.name !== name) {
      this.#grip = { name, others: others.map((other) => this.#values.get(other)) };
    }
    const sum = this.#grip.others.reduce((a, b) => a + b, 0);
    others.forEach((other, at) => {
      const part = sum > 0 ? this.#grip.others[at] / sum : 1 / others.length;
      this.#values.set(other, (1 - value) * part);
    });
    this.#values.set(name, value);
    this.#stated = true;
    this.#say("Requested, not in effect yet.", "requested");
    this.#draw();
    const rest = this.#sentAt + THROTTLE - Date.now();
    if (rest <= 0) this.#flush();
    else if (!this.#timer) this.#timer = setTimeout(() => this.#flush(), rest);
  }

  #flush() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#sentAt = Date.now();
    this.#send({ type: "shares", shares: [...this.#values] });
  }

  #say(text, state = "") {
    byId("shares-state").textContent = text;
    byId("shares-state").dataset.state = state;
  }

  #draw() {
    const percents = wholePercents(this.#names.map((name) => this.#values.get(name)));
    this.#names.forEach((name, at) => {
      const row = this.#rows.get(name);
      const requested = this.#stated ? `${percents[at]} %` : "–";
      const share = this.#measured.get(name);
      const measured = percent(share);
      const { slider, tick } = row;
      if (document.activeElement !== slider || Number(slider.value) !== percents[at]) slider.value = percents[at];
      slider.style.setProperty("--value", `${percents[at]}%`);
      slider.setAttribute("aria-valuetext", `${requested} requested, ${measured} measured`);
      row.requested.textContent = requested;
      row.measured.textContent = measured;
      tick.hidden = !Number.isFinite(share);
      tick.style.setProperty("--at", share ?? 0);
    });
  }

  /** Adds the slider of a group, with its numbers. */
  #add({ name, about }, className) {
    const made = element("div", `share ${className}`);
    const label = element("label");
    label.htmlFor = `slider-${name}`;
    label.append(element("b", "", heading(name)), " ", element("span", "small", about));
    const track = element("div", "track");
    const slider = element("input");
    Object.assign(slider, { id: `slider-${name}`, type: "range", min: 0, max: 100, step: 1, value: 0, disabled: true });
    slider.addEventListener("input", () => this.#move(name, Number(slider.value) / 100));
    slider.addEventListener("change", () => {
      this.#grip = null;
      if (this.#timer) this.#flush();
    });
    slider.addEventListener("blur", () => (this.#grip = null));
    const tick = element("span", "tick");
    tick.hidden = true;
    tick.title = "measured";
    track.append(slider, tick);
    const numbers = element("p", "figures small");
    const row = { slider, tick };
    for (const what of ["requested", "measured"]) {
      const value = element("b", "", "–");
      value.id = `${what}-${name}`;
      const span = element("span", "", `${what} `);
      span.append(value);
      numbers.append(span);
      row[what] = value;
    }
    made.append(label, track, numbers);
    byId("sliders").append(made);
    this.#rows.set(name, row);
  }
}
