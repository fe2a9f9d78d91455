// The two charts and the spark line. They show the points of the last 5 minutes.

import { count, draw, duration } from "./format.js";

const LENGTH = 300_000;
const LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 20;
const OUTCOMES = [["in_time", "in time"], ["refused", "refused"], ["late", "late"], ["failed", "failed"]];

/** Return a rounded upper end of an axis. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((end) => end >= value * 1.04) ?? 10 * power;
}

class Chart {
  constructor(svg, label) {
    this.svg = svg;
    this.label = label;
    this.points = [];
    this.now = 0;
    this.at = null;
    svg.addEventListener("pointermove", (event) => { this.at = event.offsetX; this.render(); });
    svg.addEventListener("pointerleave", () => { this.at = null; this.render(); });
    new ResizeObserver(() => this.render()).observe(svg);
  }

  update(points, now) {
    this.points = points;
    this.now = now;
    this.render();
  }

  x(time) { return LEFT + (1 - (this.now - time) / LENGTH) * (this.width - LEFT - RIGHT); }

  y(value) { return this.height - BOTTOM - (value / this.top) * (this.height - TOP - BOTTOM); }

  render() {
    const box = this.svg.getBoundingClientRect();
    if (!box.width) return;
    this.width = box.width;
    this.height = box.height;
    this.top = ceiling(this.highest());
    this.svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const y = this.y(share * this.top);
      parts.push(draw("path", { class: "grid", d: `M${LEFT} ${y}H${this.width - RIGHT}` }));
      parts.push(draw("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, this.value(share * this.top)));
    }
    for (const minutes of box.width > 420 ? [5, 4, 3, 2, 1, 0] : [4, 2, 0]) {
      const x = this.x(this.now - minutes * 60_000);
      const anchor = minutes === 5 ? "start" : minutes ? "middle" : "end";
      parts.push(draw("text", { x, y: this.height - 5, "text-anchor": anchor }, minutes ? `−${minutes} min` : "now"));
    }
    parts.push(...this.shapes(), ...this.cursor());
    this.svg.replaceChildren(...parts);
    const last = this.points.at(-1);
    this.svg.setAttribute("aria-label", last ? `${this.label}: ${this.describe(last)}` : `${this.label}: no data yet`);
  }

  cursor() {
    if (this.at === null || !this.points.length) return [];
    const time = this.now - (1 - (this.at - LEFT) / (this.width - LEFT - RIGHT)) * LENGTH;
    const point = this.points.find((each) => each.end >= time) ?? this.points.at(-1);
    const x = this.x(point.end - point.width / 2);
    const right = x > this.width / 2;
    return [
      draw("path", { class: "cursor", d: `M${x} ${TOP}V${this.height - BOTTOM}` }),
      draw("text", { class: "value", x: x + (right ? -6 : 6), y: TOP + 10, "text-anchor": right ? "end" : "start" }, this.describe(point)),
    ];
  }

  line(name, attribute) {
    const parts = [];
    let pen = "M"; // a point without a value interrupts the line
    for (const point of this.points) {
      if (point[attribute]) parts.push(`${pen}${this.x(point.end - point.width)} ${this.y(point[attribute])}H${this.x(point.end)}`);
      pen = point[attribute] ? "L" : "M";
    }
    return draw("path", { class: `stroke ${name}`, d: parts.join("") });
  }
}

export class OutcomeChart extends Chart {
  rate(point, name) { return (point[name] / point.width) * 1000; }

  highest() { return Math.max(1, ...this.points.map((point) => OUTCOMES.reduce((sum, [name]) => sum + this.rate(point, name), 0))); }

  value(value) { return count(value); }

  describe(point) {
    return OUTCOMES.filter(([name], index) => !index || point[name]).map(([name, label]) => `${count(this.rate(point, name))}/s ${label}`).join(", ");
  }

  shapes() {
    const below = this.points.map(() => 0);
    return OUTCOMES.map(([name]) => {
      let path = "";
      this.points.forEach((point, index) => {
        const rate = this.rate(point, name);
        if (!rate) return;
        const [left, right] = [this.x(point.end - point.width), this.x(point.end)];
        path += `M${left} ${this.y(below[index])}V${this.y(below[index] + rate)}H${right + 0.3}V${this.y(below[index])}Z`;
        below[index] += rate;
      });
      return draw("path", { class: `area ${name.replace("_", "-")}`, d: path });
    });
  }
}

export class LatencyChart extends Chart {
  highest() {
    const worst = Math.max(...this.points.map((point) => point.p99), 0);
    const slos = this.points.map((point) => point.max_slo).filter(Boolean);
    const slo = slos.length ? Math.max(...slos) : 0;
    return slo && slo < 20 * Math.max(worst, 1) ? Math.max(worst, slo) : worst || slo;
  }

  value(value) { return duration(value).replace(".00", "").replace(".0 ", " "); }

  describe(point) {
    if (!point.p99) return "no requests";
    const slo = point.max_slo ? `, SLO ${point.min_slo === point.max_slo ? "" : `${duration(point.min_slo)} to `}${duration(point.max_slo)}` : "";
    return `p50 ${duration(point.p50)}, p99 ${duration(point.p99)}${slo}`;
  }

  shapes() {
    const shapes = [this.line("p50", "p50"), this.line("p99", "p99")];
    for (const slo of ["min_slo", "max_slo"]) {
      if (this.points.every((point) => point[slo] <= this.top)) shapes.unshift(this.line("slo", slo));
    }
    return shapes;
  }
}

/** Draw the goodput of the last 5 minutes as an area without axes. */
export function spark(svg, points, now) {
  const highest = Math.max(1, ...points.map((point) => point.in_time / point.width));
  let path = "";
  for (const point of points) {
    const left = (1 - (now - point.end + point.width) / LENGTH) * 100, right = (1 - (now - point.end) / LENGTH) * 100;
    path += `M${left} 22V${22 - (point.in_time / point.width / highest) * 20}H${right + 0.2}V22Z`;
  }
  svg.setAttribute("viewBox", "0 0 100 22");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(draw("path", { d: path }));
}
