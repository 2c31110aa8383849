// State and progress of the run, and the buttons.
import { Shares } from "/shares.js";
import { announce, byId, duration, element, number, size } from "/ui.js";

/** Time that "Really stop?" waits for the second press, in ms. */
const ARMED = 8000;
/** Number of progress messages used to estimate the remaining time. */
const PACE = 40;

const STATES = {
  waiting: "Waiting for the run",
  painting: "Painting",
  pausing: "Pausing …",
  paused: "Paused",
  resuming: "Resuming …",
  stopping: "Stopping …",
};
const ENDINGS = {
  finished: "Finished",
  settled: "Finished: the picture hardly changes any more",
  stopped: "Stopped",
  failed: "The run failed. The program printed the reason.",
};

export class Controls {
  #send;
  #state = "waiting";
  #control = false;
  #connected = false;
  #scales = [];
  #iteration = 0;
  /** The latest progress messages: [work done, seconds]. */
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
    this.#scales = start.scales;
    this.#iteration = 0;
    this.#pace = [];
    this.#quarter = 0;
    byId("total").textContent = this.#total();
    byId("progress").max = Math.max(1, this.#work(this.#total()));
    byId("progress").value = 0;
    byId("iteration").textContent = 0;
    byId("ending").hidden = true;
    this.#connected = true;
    this.#shares.begin(start);
    this.scale(0, false);
    this.#set("painting");
  }

  /** A scale begins, counted from 0. */
  scale(index, isNew) {
    const scale = this.#scales[index];
    byId("scale").hidden = this.#scales.length < 2 || !scale;
    if (!scale) return;
    const which = `${index + 1} of ${this.#scales.length}`;
    byId("scale").textContent = `Scale ${which}, ${size(scale)}`;
    if (isNew && this.#scales.length > 1) announce(`Scale ${which} begins.`);
  }

  access(control) {
    this.#control = control;
    this.#connected = true;
    byId("access").hidden = control;
    // Replaces "No connection".
    if (this.#state !== "ended") this.#set(this.#state);
    this.#enable();
  }

  lost() {
    this.#connected = false;
    byId("state").textContent = "No connection to the run";
    byId("left").textContent = "";
    this.#arm(false);
    this.#enable();
  }

  progress({ iteration, seconds }) {
    // A run that went back to an earlier iteration has another pace.
    if (iteration < this.#iteration) this.#pace = [];
    this.#iteration = iteration;
    byId("iteration").textContent = iteration;
    byId("progress").value = this.#work(iteration);
    this.#pace.push([this.#work(iteration), seconds]);
    if (this.#pace.length > PACE) this.#pace.shift();
    this.#timeLeft();
    const quarter = Math.floor((4 * this.#work(iteration)) / Math.max(1, this.#work(this.#total())));
    if (quarter > this.#quarter && quarter < 4) announce(`${quarter * 25} percent done.`);
    this.#quarter = quarter;
  }

  report(report) {
    byId("loss").textContent = number(report.total);
    const change = report.change;
    byId("change").textContent = Number.isFinite(change) ? `${number(change * 255)} of 255` : "–";
    this.#shares.report(report);
  }

  paused(paused, isNew) {
    if (this.#state === "ended" || this.#state === "stopping") return;
    // Exclude the pause from the pace.
    this.#pace = [];
    this.#set(paused ? "paused" : "painting");
    if (isNew) announce(paused ? `Paused after ${this.#iteration} iterations.` : "Painting again.");
  }

  requested(shares) {
    this.#shares.requested(shares);
  }

  inEffect(message) {
    this.#shares.inEffect(message);
  }

  /** A command of this viewer was refused. */
  refused() {
    if (["pausing", "resuming", "stopping"].includes(this.#state)) {
      this.#set(this.#state === "resuming" ? "paused" : "painting");
    }
  }

  end(ending, output, isNew) {
    const how = ENDINGS[ending] ?? ending;
    this.#set("ended", how);
    byId("left").textContent = "";
    const text = byId("ending");
    text.hidden = !output;
    text.replaceChildren("The picture is saved as ", element("b", "", output));
    if (isNew) announce(`${how}.${output ? ` The picture is saved as ${output}.` : ""}`);
  }

  #set(state, text) {
    this.#state = state;
    byId("state").dataset.state = state;
    byId("state").textContent = text ?? STATES[state];
    const paused = ["paused", "resuming"].includes(state);
    byId("pause").textContent = paused ? "Resume" : "Pause";
    this.#enable();
    this.#timeLeft();
  }

  #enable() {
    const can = this.#control && this.#connected && !["waiting", "ended"].includes(this.#state);
    byId("pause").disabled = !can || this.#state === "stopping";
    byId("save").disabled = !can;
    byId("stop").disabled = !can || this.#state === "stopping";
    this.#shares.enable(can && this.#state !== "stopping");
  }

  #pauseOrResume() {
    const paused = ["paused", "resuming"].includes(this.#state);
    if (this.#send({ type: paused ? "resume" : "pause" })) this.#set(paused ? "resuming" : "pausing");
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
      // With a single message, measure from the start of the run.
      const [work, seconds] = last[0] > first[0] ? [last[0] - first[0], last[1] - first[1]] : last;
      const left = ((this.#work(this.#total()) - last[0]) * seconds) / work;
      if (Number.isFinite(left) && left > 0) text = `about ${duration(left)} left`;
    }
    byId("left").textContent = text;
  }

  #total() {
    return this.#scales.at(-1)?.end ?? 0;
  }

  /** Returns the work of the first `iterations`. */
  #work(iterations) {
    const ofScale = ({ first, end, work, preparing }) => {
      const done = Math.min(iterations, end) - first;
      return done > 0 ? preparing + done * work : 0;
    };
    return this.#scales.reduce((sum, scale) => sum + ofScale(scale), 0);
  }
}
