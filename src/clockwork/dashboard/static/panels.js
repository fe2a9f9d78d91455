// The tiles and the small panels: refusals, weights, workers, log.

import { $, bytes, colour, count, duration, make, percent, setRows, setText, swatch, words } from "./format.js";
import { spark } from "./charts.js";

const WINDOW = 10_000; // the tiles show the last 10 s

function sums(points, since) {
  const total = { in_time: 0, late: 0, refused: 0, failed: 0, broken: 0, width: 0, p50: 0, p99: 0, min_slo: Infinity, max_slo: 0 };
  for (const point of points) {
    if (point.end <= since) continue;
    for (const name of ["in_time", "late", "refused", "failed", "broken", "width"]) total[name] += point[name];
    total.p99 = Math.max(total.p99, point.p99);
    if (point.max_slo) total.min_slo = Math.min(total.min_slo, point.min_slo);
    total.max_slo = Math.max(total.max_slo, point.max_slo);
  }
  return total;
}

function kind(element, name) {
  if (element.className !== name) element.className = name;
}

export function showTiles(points, now) {
  const short = sums(points, now - WINDOW - 2_000), long = sums(points, -Infinity);
  const seconds = Math.max(short.width / 1000, 1);
  setText($("goodput"), count(short.in_time / seconds));
  spark($("spark"), points, now);
  const promised = long.in_time + long.broken;
  setText($("kept"), promised ? percent(long.in_time / promised) : "–");
  kind($("kept"), long.broken / Math.max(promised, 1) > 0.01 ? "bad" : "");
  setText($("kept-note"), promised ? `${count(long.broken)} of ${count(promised)} broken` : "none in the last 5 min");
  setText($("refused"), count(short.refused / seconds));
  const answered = short.in_time + short.late + short.refused + short.failed;
  setText($("refused-note"), answered ? `${percent(short.refused / answered)} of all requests` : "no requests");
  setText($("p99"), short.p99 ? duration(short.p99) : "–");
  kind($("p99"), short.max_slo && short.p99 > short.max_slo ? "bad" : "");
  const slo = short.min_slo === short.max_slo ? duration(short.max_slo) : `${duration(short.min_slo)} to ${duration(short.max_slo)}`;
  setText($("p99-note"), short.max_slo ? `SLO ${slo}` : "no requests");
}

export function showReasons(points) {
  const total = {};
  for (const point of points) for (const [reason, number] of Object.entries(point.reasons)) total[reason] = (total[reason] ?? 0) + number;
  const found = Object.entries(total).sort(([, one], [, two]) => two - one);
  const most = found.length ? found[0][1] : 1;
  $("no-reasons").hidden = found.length > 0;
  setRows($("reasons"), () => found.map(([reason, number]) => {
    const meter = make("i", { class: "meter", "aria-hidden": "true" });
    meter.style.width = `${(number / most) * 100}%`;
    return make("tr", {}, make("td", {}, words(reason)), make("td", {}, meter), make("td", { class: "n" }, count(number)));
  }), JSON.stringify(found));
}

export function showHeader(server, outstanding) {
  const stage = $("stage");
  const healthy = server.stage === "serving" && server.ready;
  setText(stage, server.stage === "serving" && !server.ready ? "not ready: no worker responds" : server.stage + (server.progress[1] ? ` ${server.progress[0]}/${server.progress[1]}` : ""));
  kind(stage, `pill ${healthy ? "good" : "warn"}`);
  setText($("facts"), `version ${server.version} · scheduler ${server.scheduler}${server.serving_ms ? ` · serving for ${duration(server.serving_ms)}` : ""}`);
  const broken = Object.entries(server.broken);
  const notice = $("notice");
  notice.hidden = broken.length === 0;
  setText(notice, broken.map(([model, why]) => `${model} is not served: ${why}`).join("; "));
  setText($("pending"), count(outstanding));
}

/** The devices. Rates are computed from two descriptions of the same device. */
export class Devices {
  constructor(work) {
    this.work = work;
    this.before = new Map();
    this.devices = [];
    this.figures = new Map(); // the figure of the weights of each device
  }

  update(devices, now) {
    for (const device of devices) {
      const last = this.before.get(device.device);
      const elapsed = last ? now - last.now : 0;
      const rate = (name) => (last && elapsed > 0 ? Math.max(0, device[name] - last[name]) / elapsed : null);
      device.busy = rate("exec_ms") === null ? null : Math.min(1, rate("exec_ms"));
      device.batch_rate = rate("batches") === null ? null : rate("batches") * 1000;
      device.load_rate = rate("loads") === null ? null : rate("loads") * 1000;
      device.now = now;
    }
    this.before = new Map(devices.map((device) => [device.device, device]));
    this.devices = devices;
    this.work.add("workers", () => { this.showTotals(); this.showWorkers(); this.showFindings(); });
    for (const device of devices) this.work.add(`weights of ${device.device}`, () => this.showWeights(device));
    for (const [name, figure] of this.figures) if (!devices.some((device) => device.device === name)) { figure.remove(); this.figures.delete(name); }
  }

  showTotals() {
    const devices = this.devices;
    const busy = devices.map((device) => device.busy).filter((share) => share !== null);
    setText($("busy"), busy.length ? percent(busy.reduce((sum, share) => sum + share, 0) / busy.length) : "–");
    setText($("busy-note"), `${devices.length} device${devices.length === 1 ? "" : "s"}`);
    const pending = devices.reduce((sum, device) => sum + device.outstanding, 0);
    setText($("pending-note"), `${count(pending)} action${pending === 1 ? "" : "s"} sent`);
  }

  /** Show what the workers found on their machines when they started. The first device of a worker has its findings. */
  showFindings() {
    const found = this.devices.flatMap((device) => device.findings.map((finding) => [device.worker, ...finding]));
    $("findings-table").hidden = found.length === 0;
    setRows($("findings"), () => found.map(([worker, name, level, text, cost, fix]) => make("tr", { title: [cost, fix && `Fix: ${fix}`].filter(Boolean).join("\n") },
      make("td", {}, worker), make("td", {}, name), make("td", { class: { bad: "bad", warning: "warn" }[level] ?? "muted" }, level), make("td", { class: "wrap" }, text))), JSON.stringify(found));
  }

  showWorkers() {
    setRows($("workers"), () => this.devices.map((device) => make("tr", {},
      make("td", { title: device.kind }, device.device),
      make("td", { class: device.state === "ready" ? "good" : "bad" }, device.state),
      make("td", { class: "n" }, percent(device.busy)),
      make("td", { class: "n" }, count(device.batch_rate)),
      make("td", { class: "n" }, count(device.load_rate)),
      make("td", { class: `n ${device.predicted && device.longer / device.predicted > 0.05 ? "bad" : ""}` }, device.predicted ? percent(device.longer / device.predicted) : "–"),
      make("td", { class: "n" }, device.longer ? `${duration(device.longer_p99)} / ${duration(device.longer_max)}` : "–"),
    )), JSON.stringify(this.devices.map(({ weights, ...rest }) => ({ ...rest, now: 0 }))));
    const lacks = this.devices.flatMap((device) => Object.entries(device.lacks).map(([model, why]) => `${device.worker} is not used for ${model}: ${why}`));
    const failed = this.devices.filter((device) => device.failed).map((device) => `${device.device}: ${count(device.failed)} actions failed`);
    const none = this.devices.length ? "The command clockwork check-env measures how much a worker's machine is disturbed." : "No worker is connected.";
    setText($("workers-note"), [...failed, ...new Set(lacks)].join("; ") || none);
  }

  /** Show the pages of one device. Its elements are used again, because the weights change often. */
  showWeights(device) {
    let figure = this.figures.get(device.device);
    if (!figure) {
      figure = make("figure", { class: "device" },
        make("figcaption", {}, make("span", {}, device.device), make("span", { class: "muted num" })),
        make("div", { class: "pages", "aria-hidden": "true" }), make("div", { class: "names" }));
      this.figures.set(device.device, figure);
      const later = this.devices.slice(this.devices.indexOf(device) + 1).find((each) => this.figures.has(each.device));
      $("weights").insertBefore(figure, later ? this.figures.get(later.device) : null);
    }
    const [caption, bar, names] = figure.children;
    setText(caption.lastChild, `${device.used} of ${device.pages} pages (${bytes(device.used * device.page_bytes)})`);
    if (figure.dataset.signature === String(device.weights)) return;
    figure.dataset.signature = String(device.weights);
    while (bar.children.length > device.weights.length) bar.lastChild.remove();
    device.weights.forEach(([model, pages], index) => {
      const part = bar.children[index] ?? bar.appendChild(make("i"));
      const title = `${model}: ${pages} pages`;
      if (part.title === title) return;
      part.title = title;
      part.style.width = `${(pages / Math.max(device.pages, 1)) * 100}%`;
      part.style.background = colour(model);
    });
    const listed = device.weights.slice(0, 8).map(([model, pages, state]) => make("span", {}, swatch(model), `${model} (${pages}${state === "loading" ? ", loading" : ""})`));
    const others = device.weights.length - listed.length + device.other_models;
    if (others > 0) listed.push(make("span", {}, `and ${others} more`));
    names.replaceChildren(...(listed.length ? listed : [make("span", {}, "no weights")]));
  }
}

/** The log. The newest line is the first. */
export class Log {
  constructor() { this.lines = []; }

  update(lines, whole) {
    if (whole) this.lines = [];
    this.lines = [...this.lines, ...lines].slice(-200);
  }

  render() {
    $("no-log").hidden = this.lines.length > 0;
    setRows($("log"), () => [...this.lines].reverse().map((line) => make("tr", {},
      make("td", { class: "muted num" }, new Date(line.at * 1000).toLocaleTimeString("en-GB")),
      make("td", { class: { error: "bad", critical: "bad", warning: "warn" }[line.level] ?? "muted" }, line.level),
      make("td", { title: line.event }, line.text))), String(this.lines.at(-1)?.number));
  }
}
