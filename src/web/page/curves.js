// Loss and share of each factor over the iterations, drawn as SVG, and as a table.
import { FACTORS, NAMES, SHARED, byId, element, number, percent, svg } from "/ui.js";

const HEIGHT = 150;
const MARGIN = { left: 42, right: 12, top: 8, bottom: 20 };
/** Reports that are kept, as on the server; older ones are thinned. */
const REPORTS = 4096;
const RECENT = 1024;
/** Rows of the table. */
const ROWS = 12;
/** Marks of the lines: the shape tells them apart where colour doesn't. */
const MARKS = {
  spatial: "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
  abstract: "M-3.2-3.2h6.4v6.4h-6.4z",
  style: "M0-4.2L4.2 3.4H-4.2z",
  smooth: "M0-4.4L4.4 0 0 4.4-4.4 0z",
};

export class Curves {
  /** {iteration, loss, lossShare, share}: of each factor its loss, and its share of the loss and of the gradient. */
  #reports = [];
  /** {iteration, shares: {factor: share}} */
  #asked = [];
  #factors = [];
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

  begin() {
    this.#reports = [];
    this.#asked = [];
    this.#factors = [];
    this.#later();
  }

  add(reports) {
    for (const report of reports) {
      const point = { iteration: report.iteration, loss: {}, lossShare: {}, share: {} };
      for (const { name, loss, lossShare, gradientShare } of report.factors) {
        point.lossShare[name] = lossShare;
        point.loss[name] = loss;
        point.share[name] = gradientShare;
        if (!this.#factors.includes(name) && FACTORS.includes(name)) this.#factors.push(name);
      }
      this.#reports.push(point);
    }
    if (this.#reports.length > REPORTS) {
      const old = this.#reports.length - RECENT;
      this.#reports = this.#reports.filter((_, at) => at >= old || at % 2 === 0);
    }
    this.#later();
  }

  inForce({ iteration, shares }) {
    if (shares.length === 0) return;
    const sum = shares.reduce((total, [, share]) => total + share, 0);
    if (!(sum > 0)) return;
    this.#asked.push({ iteration, shares: Object.fromEntries(shares.map(([name, share]) => [name, share / sum])) });
    this.#later();
  }

  /** Draws with the next frame, once for all that came. */
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
    const factors = this.#factors.filter((name) => plot.log || SHARED.includes(name));
    const last = Math.max(10, reports.at(-1)?.iteration ?? 0);
    const x = (iteration) => MARGIN.left + (iteration / last) * (width - MARGIN.left - MARGIN.right);
    const { y, ticks } = plot.log ? logScale(reports, factors) : linearScale();
    const parts = [];
    for (const [value, text] of ticks) {
      const at = y(value);
      parts.push(svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }));
      parts.push(label(text, MARGIN.left - 6, at + 3.5, "end"));
    }
    for (const [value, anchor] of [[0, "start"], [Math.round(last / 2), "middle"], [last, "end"]]) {
      parts.push(label(String(value), x(value), HEIGHT - 5, anchor));
    }
    if (!plot.log) {
      for (const name of factors) {
        const d = steps(this.#asked, name, last, x, y);
        if (d) parts.push(svg("path", { class: `asked ${name}`, d }));
      }
    }
    for (const name of factors) {
      const points = reports.map((report) => [x(report.iteration), y(report[plot.name][name])]);
      const whole = points.filter(([, at]) => Number.isFinite(at));
      parts.push(svg("path", { class: `line ${name}`, d: path(points) }));
      const end = whole.at(-1);
      if (end) parts.push(svg("path", { class: `mark ${name}`, d: MARKS[name], transform: `translate(${end.join(" ")})` }));
    }
    const chosen = this.#chosen(x);
    if (this.#pointer !== null && chosen) {
      const at = x(chosen.iteration);
      parts.push(svg("line", { class: "pointer", x1: at, x2: at, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    }
    plot.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    plot.svg.replaceChildren(...parts);
    plot.svg.dataset.points = reports.length;
    this.#legend(plot, factors, chosen);
  }

  /** The report under the pointer, or the latest one. */
  #chosen(x) {
    if (this.#pointer === null) return this.#reports.at(-1);
    let best = this.#reports[0];
    for (const report of this.#reports) {
      const gap = (other) => Math.abs(x(other.iteration) - this.#pointer);
      if (gap(report) < gap(best)) best = report;
    }
    return best;
  }

  #legend(plot, factors, chosen) {
    while (plot.legend.children.length > factors.length) plot.legend.lastChild.remove();
    factors.forEach((name, at) => {
      const item = plot.legend.children[at] ?? plot.legend.appendChild(element("li"));
      if (item.dataset.factor !== name) {
        item.dataset.factor = name;
        const sample = svg("svg", { width: 30, height: 10, viewBox: "0 -5 30 10", "aria-hidden": "true" });
        sample.append(
          svg("path", { class: `line ${name}`, d: "M0 0H30" }),
          svg("path", { class: `mark ${name}`, d: MARKS[name], transform: "translate(15 0)" }),
        );
        item.replaceChildren(sample, element("span", "", NAMES[name]), element("b"));
      }
      const share = plot.log && Number.isFinite(chosen?.lossShare[name]) ? ` · ${percent(chosen.lossShare[name])}` : "";
      item.lastChild.textContent = plot.text(chosen?.[plot.name][name]) + share;
    });
    const latest = this.#reports.at(-1);
    const values = factors.map((name) => `${NAMES[name]} ${plot.text(latest?.[plot.name][name])}`);
    plot.svg.setAttribute(
      "aria-label",
      latest
        ? `${plot.title} of each factor after ${latest.iteration} iterations: ${values.join(", ")}. The table below has more.`
        : `${plot.title} of each factor: nothing yet`,
    );
  }

  /** Some reports, evenly spread, the latest first. */
  #table() {
    if (!byId("numbers").open) return;
    const head = element("tr");
    const heading = (text) => {
      const cell = element("th", "", text);
      cell.scope = "col";
      return cell;
    };
    const shared = this.#factors.filter((name) => SHARED.includes(name));
    head.append(heading("Iteration"));
    head.append(...this.#factors.map((name) => heading(`${NAMES[name]} loss`)));
    head.append(...shared.map((name) => heading(`${NAMES[name]} share`)));
    byId("numbers-head").replaceChildren(head);
    const count = Math.min(ROWS, this.#reports.length);
    const rows = Array.from({ length: count }, (_, at) => {
      const place = count === 1 ? 0 : Math.round(((this.#reports.length - 1) * (count - 1 - at)) / (count - 1));
      const report = this.#reports[place];
      const row = element("tr");
      const name = element("th", "", String(report.iteration));
      name.scope = "row";
      row.append(name);
      row.append(...this.#factors.map((factor) => element("td", "", number(report.loss[factor]))));
      row.append(...shared.map((factor) => element("td", "", percent(report.share[factor]))));
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

/** A line through points, broken where one is missing; of those on one pixel column some are left out. */
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

/** What was asked of a factor, as steps. */
function steps(asked, name, last, x, y) {
  const parts = [];
  asked.forEach(({ iteration, shares }, at) => {
    const level = y(shares[name] ?? 0).toFixed(1);
    parts.push(`${at === 0 ? "M" : "L"}${x(Math.min(iteration, last)).toFixed(1)} ${level}`);
    parts.push(`H${x(Math.min(asked[at + 1]?.iteration ?? last, last)).toFixed(1)}`);
  });
  return parts.join("");
}

function linearScale() {
  const height = HEIGHT - MARGIN.top - MARGIN.bottom;
  // null would count as zero.
  const y = (share) => (Number.isFinite(share) ? MARGIN.top + (1 - share) * height : NaN);
  return { y, ticks: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, `${share * 100} %`]) };
}

function logScale(reports, factors) {
  let [low, high] = [Infinity, 0];
  for (const report of reports) {
    for (const name of factors) {
      const value = report.loss[name];
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
