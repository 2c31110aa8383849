// The connection: what comes in is handed to the parts of the page, what the viewer wants goes out.
import { Stage } from "/stage.js";
import { Controls } from "/controls.js";
import { Curves } from "/curves.js";
import { Classes } from "/classes.js";
import { announce, byId } from "/ui.js";

/** Pauses before another try, in seconds; the last one repeats. */
const RETRIES = [1, 2, 4, 8, 15, 30];
/** A server that says nothing for so long (ms) is gone: it gives a sign of life every 10 s. */
const SILENCE = 25000;
/** Length of a picture's header. */
const HEADER = 12;
/** Notes that stay on the page. */
const NOTES = 64;

const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
const stage = new Stage();
const controls = new Controls(send);
const curves = new Curves();
const classes = new Classes();
stage.onShow = (snapshot) => classes.show(snapshot);

let socket = null;
let failures = 0;
let ended = false;
let steered = null;
let lastWord = 0;
/** What comes in the first moment is history, which nobody needs to be told. */
let openedAt = 0;
let snapshot = null;

function send(message) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(message));
  return true;
}

function connection(state, text) {
  const element = byId("connection");
  element.dataset.state = state;
  element.textContent = text;
}

function connect() {
  connection("connecting", "connecting");
  const current = new WebSocket(`ws://${location.host}/live`);
  socket = current;
  current.binaryType = "arraybuffer";
  lastWord = Date.now();
  current.onopen = () => {
    openedAt = Date.now();
    lastWord = openedAt;
    snapshot = null;
    clearNotes();
    send({ type: "hello", token });
  };
  current.onmessage = (event) => {
    if (socket !== current) return;
    if (failures > 0) announce("Connected again.");
    failures = 0;
    lastWord = Date.now();
    if (!ended) connection("live", "live");
    if (typeof event.data === "string") hear(JSON.parse(event.data));
    else see(event.data);
  };
  current.onclose = () => {
    if (socket === current) lost();
  };
}

function lost() {
  socket = null;
  if (ended) return;
  controls.lost();
  if (failures === 0) announce("The connection to the run is lost. Trying again.");
  let seconds = RETRIES[Math.min(failures, RETRIES.length - 1)];
  failures += 1;
  const wait = () => {
    if (seconds <= 0) {
      connect();
      return;
    }
    connection("lost", `connection lost, trying again in ${seconds} s`);
    seconds -= 1;
    setTimeout(wait, 1000);
  };
  wait();
}

setInterval(() => {
  if (socket && !ended && Date.now() - lastWord > SILENCE) {
    const silent = socket;
    socket = null;
    silent.close();
    lost();
  }
}, 2000);

/** Follows a text. */
function hear(message) {
  switch (message.type) {
    case "start":
      begin(message);
      break;
    case "asked":
      controls.asked(message.shares);
      break;
    case "weights":
      controls.inForce(message);
      curves.inForce(message);
      break;
    case "reports":
      curves.add(message.reports);
      controls.report(message.reports.at(-1));
      classes.report(message.reports.at(-1));
      break;
    case "progress":
      controls.progress(message);
      break;
    case "paused":
      controls.paused(message.paused, fresh());
      break;
    case "strip":
      stage.keep(message.kept);
      break;
    case "snapshot":
      snapshot = message;
      break;
    case "note":
      note(message.text);
      break;
    case "end":
      end(message);
      break;
    case "access":
      access(message.steer);
      break;
    case "refused":
      note(`Not done: ${message.reason}.`);
      controls.refused();
      break;
    case "alive":
      break;
  }
}

/** Shows a picture. */
function see(buffer) {
  const header = new DataView(buffer);
  const kind = header.getUint8(0);
  const iteration = header.getUint32(4, true);
  const blob = new Blob([new Uint8Array(buffer, HEADER)], { type: "image/jpeg" });
  if (kind === 0) stage.photo(blob);
  else if (kind === 1) stage.picture(blob, iteration);
  else if (snapshot) stage.snapshot(blob, snapshot);
}

function begin(start) {
  ended = false;
  document.title = `${start.title}: neural-mirage`;
  byId("title").textContent = start.title;
  const parts = [`${start.width}×${start.height}`, start.device].filter((part) => part);
  byId("about").textContent = parts.join(" · ");
  stage.begin(start);
  controls.begin(start);
  curves.begin();
  classes.begin(start.photoClasses);
}

function end({ ending, output }) {
  ended = true;
  connection("ended", "ended");
  controls.end(ending, output, fresh());
  stage.end();
}

function access(steer) {
  controls.access(steer);
  if (steer !== steered && !steer) {
    announce(token ? "View only: the token is not the one of this run." : "View only: the address has no token.");
  }
  steered = steer;
}

function fresh() {
  return Date.now() - openedAt > 1000;
}

function note(text) {
  byId("notes-section").hidden = false;
  const item = document.createElement("li");
  item.textContent = text;
  byId("notes").prepend(item);
  while (byId("notes").children.length > NOTES) byId("notes").lastChild.remove();
  if (fresh()) announce(text);
}

function clearNotes() {
  byId("notes").replaceChildren();
  byId("notes-section").hidden = true;
}

connect();
