// Helpers shared by all parts of the page.

/** Number of colours and marks for groups; they repeat for further groups. */
export const TONES = 8;

/** Returns the CSS class with the colour of the group at an index of the run's list. */
export function tone(at) {
  return `tone-${at % TONES}`;
}

/** Capitalises a group's name. */
export function heading(name) {
  return name.charAt(0).toUpperCase() + name.slice(1);
}

export function byId(id) {
  return document.getElementById(id);
}

/** Creates an element with a class and a text. */
export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Creates an SVG element. */
export function svg(name, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Announces a text to screen readers. */
export function announce(text) {
  byId("announce").textContent = text;
}

/** Formats a number with few digits. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}

/** Formats a fraction of 1 as percent. */
export function percent(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const hundred = value * 100;
  return `${hundred > 0 && hundred < 9.95 ? hundred.toFixed(1) : Math.round(hundred)} %`;
}

/** Rounds shares to whole percents that add up to 100. */
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

/** Formats a duration. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Formats width and height of a scale. */
export function size({ width, height }) {
  return `${width}×${height}`;
}
