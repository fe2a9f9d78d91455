// Connects the panels of the dashboard with the stream of snapshots.

import { LatencyChart, OutcomeChart } from "./charts.js";
import { $, duration, readTheme, setText } from "./format.js";
import { Models } from "./models.js";
import { Devices, Log, showHeader, showReasons, showTiles } from "./panels.js";
import { Requests } from "./requests.js";
import { setToken, Stream, token } from "./stream.js";
import { Timeline } from "./timeline.js";
import { Work } from "./work.js";

const LENGTH = 300_000; // milliseconds of history
const REFRESH = 2_000; // milliseconds between two lists of recent requests
const STALE = 5_000; // milliseconds without a snapshot after which the page says so

readTheme();
const work = new Work();
const outcomes = new OutcomeChart($("outcomes"), "Requests per second by outcome");
const latency = new LatencyChart($("latency"), "Latency and SLO");
const requests = new Requests([]);
const models = new Models((model) => requests.pick(model), work);
const devices = new Devices(work);
const log = new Log();
const timeline = new Timeline({
  onPick: (id) => {
    setPaused(true);
    requests.explain(id);
  },
});

let points = [];
let server = null;
let paused = false;
let waiting = []; // messages that arrived while the page was paused
let received = 0; // time of the last message, on the browser's clock
let lost = "";

function receive(message) {
  received = performance.now();
  if (paused) {
    waiting = message.whole ? [message] : [...waiting, message].slice(-1500);
    return;
  }
  show(message);
}

function show(message) {
  if (message.whole) {
    points = [];
    timeline.forget();
  }
  if (message.server) {
    server = message.server;
    requests.setOutcomes(server.outcomes);
  }
  timeline.update(message.timeline, message.now);
  work.add("timeline", () => timeline.render());
  work.add("timeline table", () => timeline.table());
  if (server) work.add("header", () => showHeader(server, message.outstanding));
  if (message.devices) devices.update(message.devices, message.now);
  models.update(message);
  if (message.history) {
    points = [...points, ...message.history].filter((point) => point.end > message.now - LENGTH);
    work.add("tiles", () => showTiles(points, message.now));
    work.add("reasons", () => showReasons(points));
    work.add("outcomes", () => outcomes.update(points, message.now));
    work.add("latency", () => latency.update(points, message.now));
    work.add("names", () => requests.setNames(models.names()));
  }
  if (message.log) {
    log.update(message.log, message.whole);
    work.add("log", () => log.render());
  }
}

function setPaused(value) {
  paused = value;
  $("pause").setAttribute("aria-pressed", String(paused));
  setText($("pause"), paused ? "Resume" : "Pause");
  if (paused) work.finish();
  if (paused) return;
  const missed = waiting;
  waiting = [];
  for (const message of missed) show(message);
}

function showConnection() {
  const silent = performance.now() - received;
  const text = lost || (received && silent > STALE ? `no data for ${duration(silent)}` : paused ? "paused" : received ? "live" : "");
  setText($("connection"), text);
  if (lost) {
    setText($("stage"), "disconnected");
    $("stage").className = "pill bad";
  }
}

const stream = new Stream({
  onMessage: receive,
  onConnected: () => { lost = ""; requests.refresh(); },
  onLost: (why) => { lost = why; showConnection(); },
  onTokenNeeded: (why) => { lost = "a token is needed"; showConnection(); askForToken(why); },
});

function askForToken(why) {
  if (why) setText($("token-why"), `The server replied: ${why}.`);
  if (!$("token-dialog").open) $("token-dialog").showModal();
}

$("token-dialog").addEventListener("close", () => {
  if ($("token-dialog").returnValue === "save") {
    setToken($("token").value.trim());
    stream.restart();
  }
  $("token").value = "";
});
$("token-button").addEventListener("click", () => {
  setText($("token-why"), token() ? "This tab uses a token. An empty token removes it." : "The server needs a bearer token only if it was started with tokens.");
  askForToken("");
});
$("pause").addEventListener("click", () => setPaused(!paused));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "p") setPaused(!paused);
  else if (event.key === "/") { event.preventDefault(); $("filter").focus(); }
});
document.addEventListener("visibilitychange", () => (document.hidden ? stream.stop() : stream.start()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readTheme(); timeline.render(); });

setInterval(() => { if (!paused && !document.hidden && !lost) requests.refresh(); }, REFRESH);
setInterval(showConnection, 1000);
if (!document.hidden) stream.start();
requests.openFromAddress();
