// What all parts of the page use.

/** Groups have this many colours and marks; further groups begin anew. */
export const TONES = 8;

/** Class of the group at a place in the list that the run started with: its colour. */
export function tone(at) {
  return `tone-${at % TONES}`;
}

/** A group's name as a heading. */
export function heading(name) {
  return name.charAt(0).toUpperCase() + name.slice(1);
}

export function byId(id) {
  return document.getElementById(id);
}

/** A new element with a class and a text. */
export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** A new SVG element. */
export function svg(name, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Has screen readers read a text. */
export function announce(text) {
  byId("announce").textContent = text;
}

/** A number in few digits. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}

/** A share of 1 in percent. */
export function percent(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const hundred = value * 100;
  return `${hundred > 0 && hundred < 9.95 ? hundred.toFixed(1) : Math.round(hundred)} %`;
}

/** Whole percents of some shares that add up to 100. */
export function wholePercents(shares) {
  const sum = shares.reduce((a, b) => a + b, 0);
  if (!(sum > 0)) return shares.map(() => 0);
  const exact = shares.map((share) => (share / sum) * 100);
  const whole = exact.map(Math.floor);
  const order = exact.map((_, i) => i).sort((a, b) => exact[b] - whole[b] - (exact[a] - whole[a]));
  const missing = 100 - whole.reduce((a, b) => a + b, 0);
  for (const i of order.slice(0, Math.round(missing))) whole[i] += 1;
  return whole;
}

/** A duration in words. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Width and height of a scale. */
export function size({ width, height }) {
  return `${width}×${height}`;
}
