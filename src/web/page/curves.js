// Plots of loss and share of each group over the iterations, in SVG, and the table of the values.
import { TONES, byId, element, heading, number, percent, size, svg, tone } from "/ui.js";

const HEIGHT = 160;
const MARGIN = { left: 42, right: 12, top: 18, bottom: 20 };
/** Maximum number of kept reports, as on the server; older ones are thinned. */
const REPORTS = 4096;
const RECENT = 1024;
/** Rows of the table. */
const ROWS = 12;
/** Minimum distance (px) to the next scale's line for a label with the scale's size. */
const SCALE_ROOM = 58;
/** Marks of the lines, by tone: their shapes differ, so colour isn't needed. */
const MARKS = [
  "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
  "M-3.2-3.2h6.4v6.4h-6.4z",
  "M0-4.2L4.2 3.4H-4.2z",
  "M0-4.4L4.4 0 0 4.4-4.4 0z",
  "M0 4.2L4.2-3.4H-4.2z",
  "M-1.5-4h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z",
  "M-4.2 0L-2.1-3.6h4.2L4.2 0 2.1 3.6h-4.2z",
  "M-4-2.2h8v4.4h-8z",
];

export class Curves {
  /** {iteration, loss, lossShare, share}: maps from group to loss, share of the loss and share of the gradient. */
  #reports = [];
  /** {iteration, shares}: map from group to requested share. */
  #requested = [];
  #scales = [];
  /** Index of each group in the run's list. */
  #places = new Map();
  /** The groups that have losses, and those that have shares. */
  #present = new Set();
  #measured = new Set();
  #pointer = null;
  #due = false;
  #plots;

  constructor() {
    this.#plots = [
      { name: "loss", title: "Loss", svg: byId("loss-curve"), legend: byId("loss-legend"), log: true, text: number },
      { name: "share", title: "Share", svg: byId("share-curve"), legend: byId("share-legend"), log: false, text: percent },
    ];
    for (const plot of this.#plots) {
      new ResizeObserver(() => this.#later()).observe(plot.svg);
      plot.svg.addEventListener("pointermove", (event) => {
        this.#pointer = event.offsetX;
        this.#later();
      });
      plot.svg.addEventListener("pointerleave", () => {
        this.#pointer = null;
        this.#later();
      });
    }
    byId("numbers").addEventListener("toggle", () => this.#table());
  }

  begin({ groups, scales }) {
    this.#reports = [];
    this.#requested = [];
    this.#scales = scales;
    this.#places = new Map(groups.map((group, at) => [group.name, at]));
    this.#present.clear();
    this.#measured.clear();
    this.#later();
  }

  add(reports) {
    for (const report of reports) {
      const point = { iteration: report.iteration, loss: new Map(), lossShare: new Map(), share: new Map() };
      for (const { name, loss, lossShare, gradientShare } of report.groups) {
        point.loss.set(name, loss);
        point.lossShare.set(name, lossShare);
        point.share.set(name, gradientShare);
        this.#present.add(name);
        if (Number.isFinite(gradientShare)) this.#measured.add(name);
      }
      // If a run goes back to an earlier iteration, replace the later reports.
      while (this.#reports.at(-1)?.iteration >= report.iteration) this.#reports.pop();
      this.#reports.push(point);
    }
    if (this.#reports.length > REPORTS) {
      const old = this.#reports.length - RECENT;
      this.#reports = this.#reports.filter((_, at) => at >= old || at % 2 === 0);
    }
    this.#later();
  }

  inEffect({ iteration, shares }) {
    const sum = shares.reduce((total, [, share]) => total + share, 0);
    if (!(sum > 0)) return;
    this.#requested.push({ iteration, shares: new Map(shares.map(([name, share]) => [name, share / sum])) });
    this.#later();
  }

  /** Returns the groups of a plot, in the run's order. */
  #groups(isShare) {
    const shown = isShare ? this.#measured : this.#present;
    return [...this.#places.keys()].filter((name) => shown.has(name));
  }

  #tone(name) {
    return tone(this.#places.get(name));
  }

  #mark(name) {
    return MARKS[this.#places.get(name) % TONES];
  }

  /** Draws in the next frame, once for all updates until then. */
  #later() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      for (const plot of this.#plots) this.#draw(plot);
      this.#table();
    });
  }

  #draw(plot) {
    const width = plot.svg.clientWidth;
    if (width === 0) return;
    const reports = this.#reports;
    const groups = this.#groups(!plot.log);
    const last = Math.max(10, reports.at(-1)?.iteration ?? 0);
    const x = (iteration) => MARGIN.left + (iteration / last) * (width - MARGIN.left - MARGIN.right);
    const { y, ticks } = plot.log ? logScale(reports, groups) : linearScale();
    const parts = [];
    for (const [value, text] of ticks) {
      const at = y(value);
      parts.push(svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }));
      parts.push(label(text, MARGIN.left - 6, at + 3.5, "end"));
    }
    for (const [value, anchor] of [[0, "start"], [Math.round(last / 2), "middle"], [last, "end"]]) {
      parts.push(label(String(value), x(value), HEIGHT - 5, anchor));
    }
    parts.push(...this.#scaleLines(x, last, width));
    if (!plot.log) {
      for (const name of groups) {
        const d = steps(this.#requested, name, last, x, y);
        if (d) parts.push(svg("path", { class: `requested ${this.#tone(name)}`, "data-group": name, d }));
      }
    }
    for (const name of groups) {
      const points = reports.map((report) => [x(report.iteration), y(report[plot.name].get(name))]);
      const whole = points.filter(([, at]) => Number.isFinite(at));
      parts.push(svg("path", { class: `line ${this.#tone(name)}`, "data-group": name, d: path(points) }));
      const end = whole.at(-1);
      if (end) {
        const transform = `translate(${end.join(" ")})`;
        parts.push(svg("path", { class: `mark ${this.#tone(name)}`, d: this.#mark(name), transform }));
      }
    }
    const chosen = this.#chosen(x);
    if (this.#pointer !== null && chosen) {
      const at = x(chosen.iteration);
      parts.push(svg("line", { class: "pointer", x1: at, x2: at, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    }
    plot.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    plot.svg.replaceChildren(...parts);
    plot.svg.dataset.points = reports.length;
    this.#legend(plot, groups, chosen);
  }

  /** Returns a line for the start of each scale after the first, with a label if there is space. */
  #scaleLines(x, last, width) {
    const begun = this.#scales.map((scale, at) => ({ ...scale, at })).filter(({ at, first }) => at > 0 && first <= last);
    return begun.flatMap((scale, index) => {
      const [at, next] = [x(scale.first), index + 1 < begun.length ? x(begun[index + 1].first) : width];
      // Starts above the plot, so no curve crosses the text.
      const [y1, y2] = [2, HEIGHT - MARGIN.bottom];
      const line = svg("line", { class: "scale", "data-scale": scale.at + 1, x1: at, x2: at, y1, y2 });
      const title = svg("title");
      title.textContent = `Scale ${scale.at + 1} of ${this.#scales.length}, ${size(scale)}, from iteration ${scale.first}`;
      line.append(title);
      return next - at < SCALE_ROOM ? [line] : [line, label(size(scale), at + 4, y1 + 9, "start")];
    });
  }

  /** Returns the report under the pointer, or the latest one. */
  #chosen(x) {
    if (this.#pointer === null) return this.#reports.at(-1);
    let best = this.#reports[0];
    for (const report of this.#reports) {
      const gap = (other) => Math.abs(x(other.iteration) - this.#pointer);
      if (gap(report) < gap(best)) best = report;
    }
    return best;
  }

  #legend(plot, groups, chosen) {
    while (plot.legend.children.length > groups.length) plot.legend.lastChild.remove();
    groups.forEach((name, at) => {
      const item = plot.legend.children[at] ?? plot.legend.appendChild(element("li"));
      if (item.dataset.group !== name || item.dataset.tone !== this.#tone(name)) {
        item.dataset.group = name;
        item.dataset.tone = this.#tone(name);
        const sample = svg("svg", { width: 30, height: 10, viewBox: "0 -5 30 10", "aria-hidden": "true" });
        sample.append(
          svg("path", { class: `line ${this.#tone(name)}`, d: "M0 0H30" }),
          svg("path", { class: `mark ${this.#tone(name)}`, d: this.#mark(name), transform: "translate(15 0)" }),
        );
        item.replaceChildren(sample, element("span", "", heading(name)), element("b"));
      }
      const lossShare = chosen?.lossShare.get(name);
      const share = plot.log && Number.isFinite(lossShare) ? ` · ${percent(lossShare)}` : "";
      item.lastChild.textContent = plot.text(chosen?.[plot.name].get(name)) + share;
    });
    const latest = this.#reports.at(-1);
    const values = groups.map((name) => `${heading(name)} ${plot.text(latest?.[plot.name].get(name))}`);
    plot.svg.setAttribute(
      "aria-label",
      latest
        ? `${plot.title} of each group after ${latest.iteration} iterations: ${values.join(", ")}. The table below has more.`
        : `${plot.title} of each group: nothing yet`,
    );
  }

  /** Fills the table with evenly spread reports, the latest first. */
  #table() {
    if (!byId("numbers").open) return;
    const head = element("tr");
    const column = (text) => {
      const cell = element("th", "", text);
      cell.scope = "col";
      return cell;
    };
    const [groups, measured] = [this.#groups(false), this.#groups(true)];
    head.append(column("Iteration"));
    head.append(...groups.map((name) => column(`${heading(name)} loss`)));
    head.append(...measured.map((name) => column(`${heading(name)} share`)));
    byId("numbers-head").replaceChildren(head);
    const count = Math.min(ROWS, this.#reports.length);
    const rows = Array.from({ length: count }, (_, at) => {
      const place = count === 1 ? 0 : Math.round(((this.#reports.length - 1) * (count - 1 - at)) / (count - 1));
      const report = this.#reports[place];
      const row = element("tr");
      const name = element("th", "", String(report.iteration));
      name.scope = "row";
      row.append(name);
      row.append(...groups.map((group) => element("td", "", number(report.loss.get(group)))));
      row.append(...measured.map((group) => element("td", "", percent(report.share.get(group)))));
      return row;
    });
    byId("numbers-body").replaceChildren(...rows);
  }
}

function label(text, x, y, anchor) {
  const made = svg("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}

/** Returns a path through points, interrupted at missing ones; skips points closer than half a pixel. */
function path(points) {
  const parts = [];
  let pen = "M";
  let column = -Infinity;
  points.forEach(([x, y], at) => {
    if (!Number.isFinite(y)) {
      pen = "M";
    } else if (x - column >= 0.5 || at === points.length - 1) {
      parts.push(`${pen}${x.toFixed(1)} ${y.toFixed(1)}`);
      pen = "L";
      column = x;
    }
  });
  // A single point is a dot: line caps are round.
  if (parts.length === 1) parts.push("h0");
  return parts.join("");
}

/** Returns a step path of the shares requested for a group. */
function steps(requested, name, last, x, y) {
  const parts = [];
  requested.forEach(({ iteration, shares }, at) => {
    const level = y(shares.get(name) ?? 0).toFixed(1);
    parts.push(`${at === 0 ? "M" : "L"}${x(Math.min(iteration, last)).toFixed(1)} ${level}`);
    parts.push(`H${x(Math.min(requested[at + 1]?.iteration ?? last, last)).toFixed(1)}`);
  });
  return parts.join("");
}

function linearScale() {
  const height = HEIGHT - MARGIN.top - MARGIN.bottom;
  // null would count as zero.
  const y = (share) => (Number.isFinite(share) ? MARGIN.top + (1 - share) * height : NaN);
  return { y, ticks: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, `${share * 100} %`]) };
}

function logScale(reports, groups) {
  let [low, high] = [Infinity, 0];
  for (const report of reports) {
    for (const name of groups) {
      const value = report.loss.get(name);
      if (value > 0 && Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
    }
  }
  if (!(high > 0)) [low, high] = [0.1, 1];
  // At least one decade, so that a flat curve looks flat.
  const middle = Math.sqrt(low * high);
  if (high / low < 10) [low, high] = [middle / Math.sqrt(10), middle * Math.sqrt(10)];
  const [bottom, top] = [Math.log10(low) - 0.05, Math.log10(high) + 0.05];
  const height = HEIGHT - MARGIN.top - MARGIN.bottom;
  const y = (value) => (value > 0 ? MARGIN.top + ((top - Math.log10(value)) / (top - bottom)) * height : NaN);
  const ticks = [];
  const stride = Math.max(1, Math.ceil((top - bottom) / 5));
  for (let power = Math.ceil(bottom); power <= top; power += 1) {
    if (power % stride === 0) ticks.push([10 ** power, number(10 ** power)]);
  }
  return { y, ticks };
}
