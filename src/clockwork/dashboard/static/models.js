// The table of the models. Only the visible rows are elements of the page, so that thousands of models stay smooth.

import { $, bytes, count, duration, make, percent, setText, swatch } from "./format.js";

const ROW = 27;
const SPARE = 6; // rows above and below the visible ones

const [RATE, IN_TIME, LATE, REFUSED, FAILED, BROKEN, P50, P99] = [0, 1, 2, 3, 4, 5, 6, 7];

const answered = (recent) => recent[IN_TIME] + recent[LATE] + recent[REFUSED] + recent[FAILED];

/** Each column: title, explanation, value to sort by, text, and whether the largest values come first. */
const COLUMNS = [
  { title: "Model", help: "Name and version", by: (row) => `${row.model}:${row.version}`, text: (row) => row.model, ascending: true },
  { title: "State", help: "State, and the number of devices that have the weights", by: (row) => (row.ready ? row.devices.length : -1), text: (row) => (row.state ? row.state.toLowerCase() : row.ready ? (row.devices.length ? `warm on ${row.devices.length}` : "cold") : "no device") },
  { title: "Requests/s", help: "Answered requests per second in the last 10 s", n: true, by: (row) => row.short[RATE], text: (row) => count(row.short[RATE]) },
  { title: "In time", help: "Share of the requests of the last 5 min that were answered in time", n: true, by: (row) => (answered(row.long) ? row.long[IN_TIME] / answered(row.long) : 2), text: (row) => (answered(row.long) ? percent(row.long[IN_TIME] / answered(row.long)) : "–"), ascending: true },
  { title: "Refused", help: "Refused requests of the last 5 min", n: true, by: (row) => row.long[REFUSED], text: (row) => count(row.long[REFUSED]) },
  { title: "Late", help: "Late and failed requests of the last 5 min", n: true, by: (row) => row.long[LATE] + row.long[FAILED], text: (row) => count(row.long[LATE] + row.long[FAILED]), mark: (row) => row.long[LATE] + row.long[FAILED] > 0 },
  { title: "p50", help: "Median latency of the last 10 s", n: true, by: (row) => row.short[P50], text: (row) => (row.short[P50] ? duration(row.short[P50]) : "–") },
  { title: "p99", help: "99th percentile of the latency in the last 10 s", n: true, by: (row) => row.short[P99], text: (row) => (row.short[P99] ? duration(row.short[P99]) : "–"), mark: (row) => row.short[P99] > row.slo && row.slo > 0 },
  { title: "SLO", help: "Longest recent SLO, or the default", n: true, by: (row) => row.slo, text: (row) => (row.slo ? duration(row.slo) : "–") },
  { title: "Estimate", help: "Estimate for a batch of one", n: true, by: (row) => row.estimate ?? 0, text: (row) => duration(row.estimate) },
  { title: "Actual", help: "Mean actual time of a batch as a share of its estimate", n: true, by: (row) => (row.ratio ? 1 / row.ratio : 0), text: (row) => (row.ratio ? percent(1 / row.ratio) : "–"), mark: (row) => row.ratio && row.ratio < 0.98 },
  { title: "Promises", help: "Share of the promises that were kept since the start", n: true, by: (row) => (row.kept + row.broken ? row.kept / (row.kept + row.broken) : 2), text: (row) => (row.kept + row.broken ? percent(row.kept / (row.kept + row.broken)) : "–"), mark: (row) => row.broken > 0, ascending: true },
];

export class Models {
  constructor(onPick, work) {
    this.work = work;
    this.rows = new Map();
    this.turn = 0;
    this.others = 0;
    this.column = COLUMNS[2];
    this.ascending = false;
    this.shown = [];
    this.onPick = onPick;
    this.body = $("models-body");
    this.scroll = $("models-scroll");
    $("models-head").append(...COLUMNS.map((column) => {
      column.head = make("th", { scope: "col", class: column.n ? "n" : null }, make("button", { type: "button", title: column.help, onclick: () => this.sortBy(column) }, column.title));
      return column.head;
    }));
    $("filter").addEventListener("input", () => this.arrange());
    $("active").addEventListener("change", () => this.arrange());
    this.scroll.addEventListener("scroll", () => this.render(), { passive: true });
    new ResizeObserver(() => this.render()).observe(this.scroll);
    this.mark();
  }

  update(message) {
    for (const row of message.models) {
      row.turn = this.turn;
      this.rows.set(`${row.model}:${row.version}`, row);
    }
    if (message.server) this.addUnserved(message.server.versions);
    if (message.whole) for (const [key, row] of this.rows) if (!message.models.includes(row) && !row.state) this.rows.delete(key);
    if (message.turn_ended) {
      for (const [key, row] of this.rows) if (row.turn < this.turn) this.rows.delete(key);
      this.turn += 1;
    }
    this.others = message.other_models ?? 0;
    this.work.add("models", () => this.arrange());
  }

  /** Add the versions that are not ready. They have no numbers. */
  addUnserved(versions) {
    for (const [model, version, state, reason] of versions) {
      const key = `${model}:${version}`, row = this.rows.get(key);
      const state_now = { state: state === "READY" ? "" : state, reason, turn: this.turn };
      const none = [0, 0, 0, 0, 0, 0, 0, 0];
      this.rows.set(key, Object.assign(row ?? { model, version, default: false, labels: [], ready: false, devices: [], slo: 0, short: none, long: none, estimate: null, ratio: null, kept: 0, broken: 0, weights_bytes: 0 }, state_now));
    }
  }

  sortBy(column) {
    this.ascending = this.column === column ? !this.ascending : Boolean(column.ascending);
    this.column = column;
    this.mark();
    this.arrange();
  }

  mark() {
    for (const column of COLUMNS) {
      if (column === this.column) column.head.setAttribute("aria-sort", this.ascending ? "ascending" : "descending");
      else column.head.removeAttribute("aria-sort");
      const arrow = column === this.column ? (this.ascending ? " ↑" : " ↓") : "";
      setText(column.head.firstChild, column.title + arrow);
    }
  }

  arrange() {
    const text = $("filter").value.trim().toLowerCase(), active = $("active").checked;
    const sign = this.ascending ? 1 : -1;
    this.shown = [...this.rows.values()]
      .filter((row) => (!text || `${row.model}:${row.version}`.toLowerCase().includes(text)) && (!active || answered(row.long)))
      .map((row) => [this.column.by(row), row])
      .sort(([one, first], [two, second]) => {
        if (one !== two) return one < two ? -sign : sign;
        return first.model < second.model ? -1 : first.model > second.model ? 1 : 0;
      })
      .map(([, row]) => row);
    const all = this.rows.size + this.others;
    setText($("models-count"), this.shown.length === all ? `${all}` : `${this.shown.length} of ${all}`);
    this.render();
  }

  render() {
    const height = this.scroll.clientHeight || 300;
    const first = Math.max(0, Math.min(Math.floor(this.scroll.scrollTop / ROW) - SPARE, this.shown.length - 1));
    const rows = this.shown.slice(first, first + Math.ceil(height / ROW) + 2 * SPARE);
    const below = this.shown.length - first - rows.length;
    this.resize(rows.length);
    const lines = this.body.children;
    lines[0].firstChild.style.height = `${first * ROW}px`;
    lines[lines.length - 1].firstChild.style.height = `${below * ROW}px`;
    rows.forEach((row, index) => this.fill(lines[index + 1], row));
    $("models-table").setAttribute("aria-rowcount", String(this.shown.length + 1));
    rows.forEach((row, index) => lines[index + 1].setAttribute("aria-rowindex", String(first + index + 2)));
  }

  /** Keep `size` rows between the two spacers. Rows are used again, so scrolling makes no elements. */
  resize(size) {
    if (!this.body.children.length) {
      const spacer = () => make("tr", { class: "spacer", "aria-hidden": "true" }, make("td", { colspan: COLUMNS.length }));
      this.body.append(spacer(), spacer());
    }
    while (this.body.children.length - 2 < size) {
      const cells = COLUMNS.map((column, index) => (index ? make("td", { class: column.n ? "n" : null }) : make("td", {}, make("i", { class: "swatch", "aria-hidden": "true" }), make("button", { type: "button", class: "link", title: "Show the requests of this model", onclick: (event) => this.onPick(event.currentTarget.textContent) }), make("span", { class: "tag" }))));
      this.body.lastElementChild.before(make("tr", {}, ...cells));
    }
    while (this.body.children.length - 2 > size) this.body.lastElementChild.previousElementSibling.remove();
  }

  fill(line, row) {
    COLUMNS.forEach((column, index) => {
      const cell = line.children[index];
      if (index) {
        setText(cell, column.text(row));
        const kind = `${column.n ? "n" : ""}${column.mark?.(row) ? " bad" : ""}`;
        if (cell.className !== kind) cell.className = kind;
        return;
      }
      const [mark, name, tag] = cell.children;
      if (name.textContent !== row.model) {
        name.textContent = row.model;
        mark.style.background = swatch(row.model).style.background;
      }
      const labels = [row.version === "1" && row.default ? "" : `v${row.version}`, ...row.labels].filter(Boolean).join(" ");
      setText(tag, labels);
      tag.hidden = !labels;
      const title = `${row.model}:${row.version}, weights ${bytes(row.weights_bytes)}${row.reason ? `, ${row.reason}` : ""}${row.unbatched ? `, not batched: ${row.unbatched}` : ""}`;
      if (cell.title !== title) cell.title = title;
    });
  }

  names() { return [...new Set([...this.rows.values()].map((row) => row.model))].sort(); }
}
