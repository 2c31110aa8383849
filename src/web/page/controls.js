// State of the run, buttons, and the sliders that change the shares.
import { NAMES, SHARED, announce, byId, duration, element, number, percent, wholePercents } from "/ui.js";

/** Shortest time from one sending of the sliders to the next, in ms. */
const THROTTLE = 100;
/** So long after the last touch (ms), what others ask for moves the sliders again. */
const HANDS_OFF = 1500;
/** How long "Really stop?" waits for the second press, in ms. */
const ARMED = 8000;
/** Progress that is remembered for the time left, in messages. */
const PACE = 40;

const HINTS = {
  spatial: "the photo’s layout",
  abstract: "what the network sees",
  style: "textures and colours",
};
const STATES = {
  waiting: "Waiting for the run",
  painting: "Painting",
  pausing: "Pausing …",
  paused: "Paused",
  resuming: "Going on …",
  stopping: "Stopping …",
};
const ENDINGS = {
  finished: "Finished",
  stopped: "Stopped",
  failed: "The run broke off. The program says why.",
};

export class Controls {
  #send;
  #state = "waiting";
  #steer = false;
  #connected = false;
  #total = 0;
  #iteration = 0;
  /** Some of the latest progress: [iteration, seconds]. */
  #pace = [];
  #quarter = 0;
  #disarm = 0;
  #shares;

  constructor(send) {
    this.#send = send;
    this.#shares = new Shares(send);
    byId("pause").addEventListener("click", () => this.#pauseOrResume());
    byId("save").addEventListener("click", () => {
      if (send({ type: "save" })) announce("Saving.");
    });
    const stop = byId("stop");
    stop.addEventListener("click", () => this.#stop());
    stop.addEventListener("blur", () => this.#arm(false));
    stop.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#arm(false);
    });
  }

  begin(start) {
    this.#total = start.iterations;
    this.#iteration = 0;
    this.#pace = [];
    this.#quarter = 0;
    byId("total").textContent = start.iterations;
    byId("progress").max = Math.max(1, start.iterations);
    byId("progress").value = 0;
    byId("iteration").textContent = 0;
    byId("ending").hidden = true;
    this.#connected = true;
    // First, for whether there is anything to steer decides which sliders the state enables.
    this.#shares.begin(start);
    this.#set("painting");
  }

  access(steer) {
    this.#steer = steer;
    this.#connected = true;
    byId("access").hidden = steer;
    if (this.#state === "waiting") this.#set("waiting");
    this.#enable();
  }

  lost() {
    this.#connected = false;
    byId("state").textContent = "No word from the run";
    byId("left").textContent = "";
    this.#arm(false);
    this.#enable();
  }

  progress({ iteration, seconds }) {
    this.#iteration = iteration;
    byId("iteration").textContent = iteration;
    byId("progress").value = iteration;
    this.#pace.push([iteration, seconds]);
    if (this.#pace.length > PACE) this.#pace.shift();
    this.#timeLeft();
    const quarter = Math.floor((4 * iteration) / Math.max(1, this.#total));
    if (quarter > this.#quarter && quarter < 4) announce(`${quarter * 25} percent done.`);
    this.#quarter = quarter;
  }

  report(report) {
    byId("loss").textContent = number(report.total);
    const change = report.change;
    byId("change").textContent = Number.isFinite(change) ? `${number(change * 255)} of 255` : "–";
    this.#shares.report(report);
  }

  paused(paused, tell) {
    if (this.#state === "ended" || this.#state === "stopping") return;
    // What lay between the progress before and after was not painting.
    this.#pace = [];
    this.#set(paused ? "paused" : "painting");
    if (tell) announce(paused ? `Paused after ${this.#iteration} iterations.` : "Painting again.");
  }

  asked(shares) {
    this.#shares.asked(shares);
  }

  inForce(message) {
    this.#shares.inForce(message);
  }

  /** Something that was asked is not done. */
  refused() {
    if (["pausing", "resuming", "stopping"].includes(this.#state)) {
      this.#set(this.#state === "resuming" ? "paused" : "painting");
    }
  }

  end(ending, output, tell) {
    const how = ENDINGS[ending] ?? ending;
    this.#set("ended", how);
    byId("left").textContent = "";
    const words = byId("ending");
    words.hidden = !output;
    words.replaceChildren("The picture is saved as ", element("b", "", output));
    if (tell) announce(`${how}.${output ? ` The picture is saved as ${output}.` : ""}`);
  }

  #set(state, words) {
    this.#state = state;
    byId("state").dataset.state = state;
    byId("state").textContent = words ?? STATES[state];
    const holds = ["paused", "resuming"].includes(state);
    byId("pause").textContent = holds ? "Resume" : "Pause";
    this.#enable();
    this.#timeLeft();
  }

  #enable() {
    const can = this.#steer && this.#connected && !["waiting", "ended"].includes(this.#state);
    byId("pause").disabled = !can || this.#state === "stopping";
    byId("save").disabled = !can;
    byId("stop").disabled = !can || this.#state === "stopping";
    this.#shares.enable(can && this.#state !== "stopping");
  }

  #pauseOrResume() {
    const holds = ["paused", "resuming"].includes(this.#state);
    if (this.#send({ type: holds ? "resume" : "pause" })) this.#set(holds ? "resuming" : "pausing");
  }

  #stop() {
    if (byId("stop").dataset.armed !== "true") {
      this.#arm(true);
      announce("Press again to stop the run.");
    } else {
      this.#arm(false);
      if (this.#send({ type: "stop" })) this.#set("stopping");
    }
  }

  #arm(armed) {
    clearTimeout(this.#disarm);
    byId("stop").dataset.armed = armed;
    byId("stop").textContent = armed ? "Really stop?" : "Stop";
    if (armed) this.#disarm = setTimeout(() => this.#arm(false), ARMED);
  }

  #timeLeft() {
    const [first, last] = [this.#pace[0], this.#pace.at(-1)];
    let text = "";
    if (this.#state === "painting" && last) {
      // From the start of the run if there is only one to go by.
      const [iterations, seconds] =
        last[0] > first[0] ? [last[0] - first[0], last[1] - first[1]] : [last[0], last[1]];
      const left = ((this.#total - last[0]) * seconds) / iterations;
      if (Number.isFinite(left) && left > 0) text = `about ${duration(left)} left`;
    }
    byId("left").textContent = text;
  }
}

/** The three sliders. They add up to 100 %: moving one scales the others. */
class Shares {
  #send;
  #values = { spatial: 0, abstract: 0, style: 0 };
  /** The others' values when the hand was laid on a slider: their proportion stays. */
  #grip = null;
  #steerable = [];
  /** False while the run keeps raw weights and nobody has asked for shares. */
  #stated = false;
  #measured = {};
  #touched = 0;
  #sentAt = 0;
  #timer = 0;

  constructor(send) {
    this.#send = send;
    for (const name of SHARED) byId("shares").append(row(name));
    for (const name of SHARED) {
      const slider = byId(`share-${name}`);
      slider.addEventListener("input", () => this.#move(name, Number(slider.value) / 100));
      slider.addEventListener("change", () => {
        this.#grip = null;
        if (this.#timer) this.#flush();
      });
      slider.addEventListener("blur", () => (this.#grip = null));
    }
  }

  begin({ shares, steerable }) {
    this.#steerable = steerable;
    this.#stated = shares !== null;
    this.#measured = {};
    this.#touched = 0;
    this.#take(shares ?? {});
    for (const name of SHARED) {
      const absent = !steerable.includes(name);
      byId(`row-${name}`).classList.toggle("absent", absent);
      byId(`row-${name}`).querySelector("label .small").textContent = absent ? "can’t be steered" : HINTS[name];
    }
    this.#say(
      steerable.length < 2
        ? "The shares of this run can’t be changed."
        : this.#stated
          ? "They follow within one iteration."
          : "This run has raw weights; moving a slider gives it shares.",
    );
    this.#draw();
  }

  enable(can) {
    for (const name of SHARED) {
      byId(`share-${name}`).disabled = !can || this.#steerable.length < 2 || !this.#steerable.includes(name);
    }
  }

  report({ iteration, factors }) {
    this.#measured = Object.fromEntries(factors.map((factor) => [factor.name, factor.gradientShare]));
    this.#measured.iteration = iteration;
    if (!this.#stated && this.#handsOff()) this.#take(this.#measured);
    this.#draw();
  }

  asked(shares) {
    this.#stated = true;
    this.#say("Asked for; not yet in force.", "asked");
    if (this.#handsOff()) this.#take(shares);
    this.#draw();
  }

  inForce({ iteration, shares }) {
    if (shares.length === 0) return;
    this.#stated = true;
    const wanted = Object.fromEntries(shares);
    if (this.#handsOff()) this.#take(wanted);
    const percents = wholePercents(SHARED.map((name) => wanted[name] ?? 0));
    const same = SHARED.every((name, at) => Math.abs(this.#values[name] * 100 - percents[at]) < 1.01);
    if (same) this.#say(iteration > 0 ? `In force since iteration ${iteration}.` : "In force from the start.", "in-force");
    this.#draw();
  }

  #handsOff() {
    return Date.now() - this.#touched > HANDS_OFF;
  }

  /** Takes shares in any unit. */
  #take(shares) {
    const values = SHARED.map((name) => Math.max(0, shares[name] ?? 0));
    const sum = values.reduce((a, b) => a + b, 0);
    if (!(sum > 0)) return;
    SHARED.forEach((name, at) => (this.#values[name] = values[at] / sum));
  }

  #move(name, value) {
    this.#touched = Date.now();
    const others = SHARED.filter((other) => other !== name && this.#steerable.includes(other));
    if (this.#grip?.name !== name) {
      this.#grip = { name, others: others.map((other) => this.#values[other]) };
    }
    const sum = this.#grip.others.reduce((a, b) => a + b, 0);
    others.forEach((other, at) => {
      const part = sum > 0 ? this.#grip.others[at] / sum : 1 / others.length;
      this.#values[other] = (1 - value) * part;
    });
    this.#values[name] = value;
    this.#stated = true;
    this.#say("Asked for; not yet in force.", "asked");
    this.#draw();
    const rest = this.#sentAt + THROTTLE - Date.now();
    if (rest <= 0) this.#flush();
    else if (!this.#timer) this.#timer = setTimeout(() => this.#flush(), rest);
  }

  #flush() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#sentAt = Date.now();
    this.#send({ type: "shares", ...this.#values });
  }

  #say(text, state = "") {
    byId("shares-state").textContent = text;
    byId("shares-state").dataset.state = state;
  }

  #draw() {
    const percents = wholePercents(SHARED.map((name) => this.#values[name]));
    SHARED.forEach((name, at) => {
      const slider = byId(`share-${name}`);
      const asked = this.#stated ? `${percents[at]} %` : "–";
      const measured = percent(this.#measured[name]);
      if (document.activeElement !== slider || Number(slider.value) !== percents[at]) slider.value = percents[at];
      slider.style.setProperty("--value", `${percents[at]}%`);
      slider.setAttribute("aria-valuetext", `${asked} asked, ${measured} measured`);
      byId(`asked-${name}`).textContent = asked;
      byId(`measured-${name}`).textContent = measured;
      const tick = byId(`tick-${name}`);
      tick.hidden = !Number.isFinite(this.#measured[name]);
      tick.style.setProperty("--at", this.#measured[name] ?? 0);
    });
  }
}

/** One slider with its numbers. */
function row(name) {
  const made = element("div", `share ${name}`);
  made.id = `row-${name}`;
  const label = element("label");
  label.htmlFor = `share-${name}`;
  label.append(element("b", "", NAMES[name]), " ", element("span", "small", HINTS[name]));
  const track = element("div", "track");
  const slider = element("input");
  Object.assign(slider, { id: `share-${name}`, type: "range", min: 0, max: 100, step: 1, value: 0, disabled: true });
  const tick = element("span", "tick");
  tick.id = `tick-${name}`;
  tick.hidden = true;
  tick.title = "measured";
  track.append(slider, tick);
  const numbers = element("p", "figures small");
  for (const what of ["asked", "measured"]) {
    const value = element("b", "", "–");
    value.id = `${what}-${name}`;
    const span = element("span", "", `${what} `);
    span.append(value);
    numbers.append(span);
  }
  made.append(label, track, numbers);
  return made;
}
