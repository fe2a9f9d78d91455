// The timeline of the devices: the last second as it happened, and the next 100 ms as planned, on two time scales.
// An entry is [first request, load or not, model, begin, end, estimate, rows, late requests]. Times are in milliseconds
// on the server's clock.

import { $, colour, duration, make, setRows, setText, theme } from "./format.js";

const PAST = 1000, FUTURE = 100;
const AXIS = 20, EXEC = 18, LOAD = 7, GAP = 8;
const [REQUEST, LOADS, MODEL, BEGIN, END, ESTIMATE, ROWS, LATE] = [0, 1, 2, 3, 4, 5, 6, 7];
const MAX_TABLE = 60;

export class Timeline {
  constructor({ onPick }) {
    this.canvas = $("timeline");
    this.tip = $("tip");
    this.details = $("timeline-details");
    this.devices = [];
    this.past = new Map();
    this.now = 0;
    this.drawn = [];
    this.omitted = 0;
    this.frames = 0;
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    this.canvas.addEventListener("click", (event) => {
      const found = this.at(event);
      if (found?.entry[REQUEST]) onPick(found.entry[REQUEST]);
    });
    this.onPick = onPick;
    this.details.addEventListener("toggle", () => this.table());
    new ResizeObserver(() => this.render()).observe($("timeline-box"));
  }

  update(timeline, now) {
    this.now = now;
    this.devices = timeline?.devices ?? [];
    this.omitted = timeline?.omitted ?? 0;
    setText($("timeline-note"), note(timeline));
    for (const device of this.devices) {
      const kept = this.past.get(device.device) ?? [];
      const done = [...kept, ...device.done].filter((entry) => entry[END] > now - PAST);
      this.past.set(device.device, done);
    }
    for (const name of this.past.keys()) if (!this.devices.some((device) => device.device === name)) this.past.delete(name);
  }

  forget() { this.past.clear(); }

  entries(device) { return [...(this.past.get(device.device) ?? []), ...device.next]; }

  render() {
    const ratio = window.devicePixelRatio || 1;
    const width = $("timeline-box").clientWidth;
    if (!width) return;
    this.narrow = width < 620;
    this.left = this.narrow ? 0 : Math.min(190, width * 0.18);
    this.lane = EXEC + LOAD + GAP + (this.narrow ? 14 : 0);
    const height = AXIS + Math.max(1, this.devices.length) * this.lane;
    const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== pixels[0] || this.canvas.height !== pixels[1]) {
      [this.canvas.width, this.canvas.height] = pixels;
      this.canvas.style.height = `${height}px`;
    }
    this.width = width;
    this.split = this.left + (width - this.left) * 0.62;
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    this.axis(pen, height);
    this.drawn = [];
    this.devices.forEach((device, index) => this.device(pen, device, AXIS + index * this.lane));
    pen.strokeStyle = theme.accent;
    pen.lineWidth = 1.5;
    line(pen, this.split, AXIS - 4, this.split, height);
    this.frames += 1;
    this.canvas.dataset.frames = String(this.frames);
    this.describe();
  }

  x(time) {
    const after = time - this.now;
    if (after <= 0) return this.split + Math.max(after / PAST, -1) * (this.split - this.left);
    return this.split + Math.min(after / FUTURE, 1) * (this.width - this.split);
  }

  axis(pen, height) {
    pen.fillStyle = theme.shade;
    pen.fillRect(this.split, AXIS - 4, this.width - this.split, height - AXIS + 4);
    const marks = this.narrow ? [[-1000, "−1 s"], [-500, "−500 ms"], [0, "now"], [50, "+50"], [100, "+100 ms"]] : [[-1000, "−1 s"], [-750, "−750 ms"], [-500, "−500 ms"], [-250, "−250 ms"], [0, "now"], [25, "+25 ms"], [50, "+50 ms"], [75, "+75 ms"], [100, "+100 ms"]];
    pen.lineWidth = 1;
    for (const [after, label] of marks) {
      const x = this.x(this.now + after);
      pen.strokeStyle = theme.line;
      line(pen, Math.min(x, this.width - 0.5), AXIS - 4, Math.min(x, this.width - 0.5), height);
      pen.fillStyle = after ? theme.muted : theme.accent;
      pen.textAlign = after === PAST ? "left" : x > this.width - 10 ? "right" : x < this.left + 10 ? "left" : "center";
      pen.fillText(label, x, 7);
    }
  }

  device(pen, device, top) {
    pen.textAlign = "left";
    pen.fillStyle = theme.text;
    if (this.narrow) { pen.fillText(device.device, 0, top + 6); top += 14; } else pen.fillText(clip(pen, device.device, this.left - 12), 0, top + EXEC / 2);
    pen.fillStyle = theme.soft;
    pen.fillRect(this.left, top, this.width - this.left, EXEC);
    pen.fillRect(this.left, top + EXEC + 1, this.width - this.left, LOAD);
    for (const entry of this.past.get(device.device) ?? []) this.block(pen, device, entry, top, false);
    for (const entry of device.next) this.block(pen, device, entry, top, true);
  }

  block(pen, device, entry, top, planned) {
    const load = entry[LOADS] === 1;
    const left = this.x(entry[BEGIN]), right = Math.max(left + 1, this.x(entry[END]));
    if (right < this.left || left > this.width) return;
    const y = load ? top + EXEC + 1 : top, height = load ? LOAD : EXEC;
    pen.fillStyle = colour(entry[MODEL], planned ? 0.55 : 1);
    pen.fillRect(left, y, Math.max(1, right - left - 0.5), height);
    const estimated = entry[BEGIN] + entry[ESTIMATE];
    if (!planned && entry[ESTIMATE] && entry[END] > estimated && entry[END] <= this.now) {
      const over = this.x(Math.max(estimated, entry[BEGIN]));
      pen.fillStyle = theme.late;
      pen.fillRect(over, y + height - 3, Math.max(1, right - over), 3);
    }
    if (planned) {
      pen.lineWidth = entry[LATE] ? 2 : 1;
      pen.strokeStyle = entry[LATE] ? theme.late : colour(entry[MODEL]);
      pen.strokeRect(left + 0.5, y + 0.5, Math.max(1, right - left - 1.5), height - 1);
    }
    const text = `${entry[MODEL]}${entry[ROWS] > 1 ? ` ×${entry[ROWS]}` : ""}`;
    if (!load && right - left > 34) {
      pen.fillStyle = planned ? theme.text : theme["bar-text"];
      pen.fillText(clip(pen, entry[LATE] && planned ? `! ${text}` : text, right - left - 8), left + 4, y + EXEC / 2 + 0.5);
    }
    this.drawn.push({ left, right, top: y, bottom: y + height, entry, device: device.device, planned });
  }

  at(event) {
    const found = this.drawn.filter((each) => event.offsetX >= each.left - 2 && event.offsetX <= each.right + 2 && event.offsetY >= each.top - 1 && event.offsetY <= each.bottom + 1);
    return found.sort((one, two) => distance(one, event.offsetX) - distance(two, event.offsetX))[0];
  }

  hover(event) {
    const found = this.at(event);
    this.tip.hidden = !found;
    this.canvas.style.cursor = found?.entry[REQUEST] ? "pointer" : "default";
    if (!found) return;
    this.tip.textContent = lines(found, this.now).join("\n");
    this.tip.style.top = `${found.bottom + 6}px`;
    this.tip.style.left = `${Math.max(0, Math.min(event.offsetX, this.width - this.tip.offsetWidth - 4))}px`;
  }

  /** Update the text alternative of the canvas. It is not announced, because it changes all the time. */
  describe() {
    const parts = this.devices.map((device) => {
      const past = (this.past.get(device.device) ?? []).filter((entry) => !entry[LOADS]);
      const busy = past.reduce((sum, entry) => sum + Math.min(entry[END], this.now) - Math.max(entry[BEGIN], this.now - PAST), 0);
      return `${device.device}: ${past.length} batches in the last second, ${Math.round((busy / PAST) * 100)} % busy, ${device.next.length} actions planned, ${device.next.filter((entry) => entry[LATE]).length} at risk`;
    });
    this.canvas.setAttribute("aria-label", `Timeline of the devices. ${parts.join("; ") || "No device."} The table below contains the same actions.`);
  }

  /** Fill the table that shows the same actions, if it is open. */
  table() {
    if (!this.details.open) return;
    const found = this.devices.flatMap((device) => [
      ...(this.past.get(device.device) ?? []).map((entry) => ({ entry, device: device.device, planned: false })),
      ...device.next.map((entry) => ({ entry, device: device.device, planned: true })),
    ]).sort((one, two) => two.entry[BEGIN] - one.entry[BEGIN]).slice(0, MAX_TABLE);
    setRows($("timeline-rows"), () => found.map((each) => {
      const { entry, device, planned } = each, load = entry[LOADS] === 1;
      const model = !entry[REQUEST] ? entry[MODEL] : make("button", { type: "button", class: "link", title: "Explain the first request of this batch", onclick: () => this.onPick(entry[REQUEST]) }, entry[MODEL]);
      return make("tr", {}, make("td", {}, device), make("td", {}, load ? "load" : "batch"), make("td", {}, model),
        make("td", { class: "n" }, load ? "–" : String(entry[ROWS])), make("td", { class: "n" }, duration(entry[BEGIN] - this.now)),
        make("td", { class: "n" }, planned ? "–" : duration(entry[END] - entry[BEGIN])), make("td", { class: "n" }, entry[ESTIMATE] ? duration(entry[ESTIMATE]) : "–"),
        make("td", { class: entry[LATE] ? "bad" : null }, state(each, this.now)));
    }), `${this.now}`);
  }
}

function note(timeline) {
  if (!timeline) return "The server records no actions (--explain-requests 0).";
  const risk = timeline.at_risk ? `${timeline.at_risk} promise${timeline.at_risk === 1 ? "" : "s"} at risk. ` : "";
  return risk + (timeline.omitted ? `${timeline.omitted} of the last actions are not drawn, because there are too many.` : "");
}

function state({ entry, planned }, now) {
  if (planned) return entry[LATE] ? "promise at risk" : entry[BEGIN] <= now ? "executing" : "planned";
  return entry[ESTIMATE] && entry[END] - entry[BEGIN] > entry[ESTIMATE] ? "longer than estimated" : "done";
}

function lines(found, now) {
  const { entry, device, planned } = found, load = entry[LOADS] === 1;
  return [
    `${load ? "load of" : `${entry[ROWS]} row${entry[ROWS] === 1 ? "" : "s"} of`} ${entry[MODEL]} on ${device}`,
    `${state(found, now)}, begin ${entry[BEGIN] <= now ? `${duration(now - entry[BEGIN])} ago` : `in ${duration(entry[BEGIN] - now)}`}`,
    `${planned ? "" : `took ${duration(entry[END] - entry[BEGIN])}, `}estimate ${entry[ESTIMATE] ? duration(entry[ESTIMATE]) : "unknown"}`,
  ];
}

const distance = (each, x) => Math.max(each.left - x, x - each.right, 0);

function line(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

const widths = new Map();

/** Shorten a text to a width. Widths are kept, because measuring text is slow. */
function clip(pen, text, width) {
  if (!widths.has(text)) {
    if (widths.size > 5000) widths.clear();
    widths.set(text, pen.measureText(text).width);
  }
  const whole = widths.get(text);
  if (whole <= width) return text;
  const fits = Math.floor((width / whole) * text.length) - 1;
  return fits > 1 ? `${text.slice(0, fits)}…` : "";
}
