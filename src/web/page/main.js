// The connection: passes messages to the parts of the page, and sends the viewer's commands.
import { Stage } from "/stage.js";
import { Controls } from "/controls.js";
import { Curves } from "/curves.js";
import { Classes } from "/classes.js";
import { announce, byId, size } from "/ui.js";

/** Seconds before each attempt to reconnect; the last one repeats. */
const RETRIES = [1, 2, 4, 8, 15, 30];
/** Timeout for receiving, in ms: the server sends a heartbeat every 10 s. */
const SILENCE = 25000;
/** Interval of the page's own heartbeat, in ms: the server drops silent viewers. */
const HEARTBEAT = 10000;
/** Length of a picture's header, in bytes. */
const HEADER = 12;
/** Maximum number of notes on the page. */
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
let hadControl = null;
let lastMessage = 0;
/** Messages in the first second are history and are not announced. */
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
  lastMessage = Date.now();
  current.onopen = () => {
    openedAt = Date.now();
    lastMessage = openedAt;
    snapshot = null;
    clearNotes();
    send({ type: "hello", token });
  };
  current.onmessage = (event) => {
    if (socket !== current) return;
    if (failures > 0) announce("Connected again.");
    failures = 0;
    lastMessage = Date.now();
    if (!ended) connection("live", "live");
    if (typeof event.data === "string") receive(JSON.parse(event.data));
    else show(event.data);
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
  if (socket && !ended && Date.now() - lastMessage > SILENCE) {
    const silent = socket;
    socket = null;
    silent.close();
    lost();
  }
}, 2000);

setInterval(() => send({ type: "alive" }), HEARTBEAT);

/** Handles a text message. */
function receive(message) {
  switch (message.type) {
    case "start":
      begin(message);
      break;
    case "scale":
      controls.scale(message.index, isNew());
      break;
    case "requested":
      controls.requested(message.shares);
      break;
    case "weights":
      controls.inEffect(message);
      curves.inEffect(message);
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
      controls.paused(message.paused, isNew());
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
      access(message.control);
      break;
    case "refused":
      note(`Refused: ${message.reason}.`);
      controls.refused();
      break;
    case "alive":
      break;
  }
}

/** Shows a picture. */
function show(buffer) {
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
  const parts = [start.scales.map(size).at(-1), start.device].filter((part) => part);
  byId("about").textContent = parts.join(" · ");
  stage.begin(start);
  controls.begin(start);
  curves.begin(start);
  classes.begin(start.photoClasses);
}

function end({ ending, output }) {
  ended = true;
  connection("ended", "ended");
  controls.end(ending, output, isNew());
  stage.end();
}

function access(control) {
  controls.access(control);
  if (control !== hadControl && !control) {
    announce(token ? "View only: the token is not valid for this run." : "View only: the address has no token.");
  }
  hadControl = control;
}

function isNew() {
  return Date.now() - openedAt > 1000;
}

function note(text) {
  byId("notes-section").hidden = false;
  const item = document.createElement("li");
  item.textContent = text;
  byId("notes").prepend(item);
  while (byId("notes").children.length > NOTES) byId("notes").lastChild.remove();
  if (isNew()) announce(text);
}

function clearNotes() {
  byId("notes").replaceChildren();
  byId("notes-section").hidden = true;
}

connect();
