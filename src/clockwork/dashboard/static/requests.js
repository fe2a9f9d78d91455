// The list of recent requests, and the explanation of one request.

import { $, count, draw, duration, make, setRows, swatch, words } from "./format.js";
import { getJson } from "./stream.js";

const LIMIT = 50;
const CLASSES = { in_time: "good", refused: "warn", late: "bad", failed: "bad", cancelled: "muted" };

const STEPS = {
  plan: "waiting for its batch to be sent", load: "loading the weights", device: "waiting at the device", input: "copying inputs",
  exec: "executing", output: "copying outputs", response: "on the way back",
};
const COMPARED = { load: "load of the weights", begin: "begin of the batch", exec: "execution", response: "way back", completion: "completion" };

const path = (query) => `v2/clockwork/requests?${new URLSearchParams(query)}`;

export class Requests {
  constructor(outcomes) {
    this.busy = false;
    this.dialog = $("explanation");
    this.setOutcomes(outcomes);
    for (const id of ["outcome", "recent-model"]) $(id).addEventListener("change", () => this.refresh());
    this.dialog.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
    window.addEventListener("hashchange", () => this.openFromAddress());
  }

  setOutcomes(outcomes) {
    if ($("outcome").options.length === outcomes.length + 1) return;
    $("outcome").replaceChildren(make("option", { value: "" }, "all"), ...outcomes.map((each) => make("option", { value: each }, each === "broken" ? "broken promise" : words(each))));
  }

  /** Show the requests of one model. */
  pick(model) {
    $("recent-model").value = model;
    this.refresh();
    $("recent-title").scrollIntoView({ block: "nearest" });
  }

  setNames(names) {
    setRows($("model-names"), () => names.slice(0, 500).map((name) => make("option", { value: name })), names.join("\n"));
  }

  async refresh() {
    if (this.busy) return;
    this.busy = true;
    const query = { limit: LIMIT };
    if ($("outcome").value) query.outcome = $("outcome").value;
    if ($("recent-model").value) query.model = $("recent-model").value;
    try {
      this.show((await getJson(path(query))).requests);
    } catch (error) {
      this.show([], error.message);
    } finally {
      this.busy = false;
    }
  }

  show(requests, problem) {
    $("no-recent").hidden = requests.length > 0;
    $("no-recent").textContent = problem ?? "No requests.";
    setRows($("recent"), () => requests.map((request) => make("tr", {},
      make("td", {}, this.link(request.request_id)),
      make("td", {}, swatch(request.model), request.model),
      make("td", { class: CLASSES[request.outcome] }, request.broken ? `${words(request.outcome)}, promise broken` : words(request.outcome)),
      make("td", { title: request.message }, words(request.reason)),
      make("td", { class: "n" }, duration(request.total_ms)),
      make("td", { class: "n" }, request.slo_ms ? duration(request.slo_ms) : "–"),
      make("td", { class: "n" }, duration(request.age_ms)),
    )), `${requests.map((request) => `${request.request_id} ${Math.round(request.age_ms / 500)}`).join(",")}`);
  }

  link(id) {
    return make("button", { type: "button", class: "link", title: "Explain this request", onclick: () => this.explain(id) }, id);
  }

  /** Open the explanation that the address names: `#request=ID`. */
  openFromAddress() {
    const id = new URLSearchParams(location.hash.slice(1)).get("request");
    if (id) this.explain(id);
  }

  /** Explain a request. A request that is still pending is explained when it has been answered. */
  async explain(id) {
    const title = `Request ${id}`;
    this.explaining = id;
    this.open(title, make("p", { class: "muted" }, "Loading …"));
    history.replaceState(null, "", `#${new URLSearchParams({ request: id })}`);
    for (let attempt = 0; this.explaining === id && this.dialog.open; attempt += 1) {
      try {
        this.open(title, ...this.described(await getJson(`v2/clockwork/requests/${encodeURIComponent(id)}`)));
        return;
      } catch (error) {
        const pending = error.message.includes("still pending") && attempt < 100;
        this.open(title, make("p", { class: pending ? "muted" : "bad" }, pending ? "The request is pending …" : error.message));
        if (!pending) return;
        await new Promise((resolve) => setTimeout(resolve, 300));
      }
    }
  }

  open(title, ...content) {
    $("explanation-title").textContent = title;
    $("explanation-body").replaceChildren(...content);
    if (!this.dialog.open) this.dialog.showModal();
  }

  *described(found) {
    const outcome = `${words(found.outcome)}${found.reason ? ` (${words(found.reason)})` : ""} after ${duration(found.total_ms)}${found.broken ? ", although it was admitted" : ""}`;
    yield make("p", { class: `why ${CLASSES[found.outcome]}` }, make("b", {}, outcome), found.message ? `: ${found.message}` : "");
    const facts = [
      ["Model", `${found.model}${found.version ? `:${found.version}` : ""}${found.rows > 1 ? `, ${found.rows} rows` : ""}`],
      ["Deadline", found.slo_ms ? `${duration(found.slo_ms)} after its arrival` : "unknown"],
      ["From", found.slo_source],
      ["Predicted completion", found.predicted_ms === undefined ? "none" : duration(found.predicted_ms)],
      ["Retry time", found.retry_after_ms === undefined ? "" : duration(found.retry_after_ms)],
      ["Device", found.device ? `${found.device}${found.action ? `, batch of ${found.action.rows}` : ""}` : ""],
      ["Weights", found.cold_start ? "cold start" : ""],
      ["Status", words(found.status.toLowerCase())],
      ["Answered", `${duration(found.age_ms)} ago`],
    ].filter(([, value]) => value);
    yield make("dl", { class: "facts" }, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    if (found.what_if.length) yield* section("What would have helped", make("ul", {}, ...found.what_if.map((each) => make("li", {}, whatIf(each, found)))));
    if (found.verdict) yield* section("The verdict", make("ul", {}, ...verdict(found.verdict).map((line) => make("li", {}, line))));
    if (found.steps.length) yield* section("What happened", steps(found));
    if (found.compared.length) yield* section("The plan and what happened", compared(found));
    if (found.mates.length) yield* section("In the same batch", make("p", {}, ...found.mates.flatMap((id) => [this.link(id), " "])));
    if (found.ahead.length) {
      const lines = found.ahead.slice(-12).map((each) => make("li", {}, swatch(each.model), `${each.kind === "load" ? "load of" : `${each.rows} row${each.rows === 1 ? "" : "s"} of`} ${each.model}, ${duration((each.end_ms ?? 0) - (each.begin_ms ?? 0))}`));
      yield* section("Executed on the device before it", make("ul", {}, ...lines));
    }
  }
}

function* section(title, content) {
  yield make("h3", {}, title);
  yield content;
}

function whatIf(each, found) {
  const after = each.completion_ms === undefined ? "" : ` after ${duration(each.completion_ms)}`;
  const refused = found.outcome === "refused" && !found.broken;
  const result = each.admitted ? `it would have been ${refused ? "admitted, and " : ""}answered${after}` : `it would ${refused ? "have been refused as well" : "not have been in time either"}`;
  if (each.change === "slo") return `With an SLO of ${duration(each.value_ms)} ${result}.`;
  if (each.change === "alone") return `Alone it would have taken ${duration(each.completion_ms)}${each.admitted ? "" : ", which is longer than its SLO"}.`;
  return `${each.change === "device" ? "With one more idle device that has the weights" : "With the weights on the device"} ${result}.`;
}

function verdict(found) {
  const ahead = found.ahead.map((each) => `${each.batches} of ${each.model}`).join(", ");
  const lines = [
    `Decided after ${duration(found.at_ms)}, for ${found.device}: ${count(found.sent)} batch${found.sent === 1 ? "" : "es"} sent and ${count(found.planned)} planned there${ahead ? ` (${ahead})` : ""}.`,
    `${found.joined ? "It joins a batch that begins" : "Its batch begins"} after ${duration(found.start_ms)} and takes ${duration(found.estimate_ms)}.`,
    `The way to the worker takes ${duration(found.way_there_ms)}, and the way back ${duration(found.way_back_ms)}; ${duration(found.margin_ms)} must be left before the deadline.`,
  ];
  if (found.weights_ready_ms > found.at_ms) lines.push(`Its weights are loaded after ${duration(found.weights_ready_ms)}.`);
  return lines;
}

/** Draw the steps as bars on one time axis, with the deadline and the predicted completion. */
function steps(found) {
  const ROW = 22, LEFT = 210, WIDTH = 820, RIGHT = 70;
  const end = Math.max(found.total_ms, ...found.steps.map((step) => step.end_ms), found.slo_ms < 3 * found.total_ms ? found.slo_ms : 0, 0.001);
  const x = (time) => LEFT + (Math.max(0, time) / end) * (WIDTH - LEFT - RIGHT);
  const height = found.steps.length * ROW + 20;
  const rows = found.steps.flatMap((step, index) => [
    draw("text", { x: 0, y: index * ROW + 15 }, STEPS[step.name] ?? step.name),
    draw("rect", { class: step.name, x: x(step.begin_ms), y: index * ROW + 4, width: Math.max(1.5, x(step.end_ms) - x(step.begin_ms)), height: ROW - 8, rx: 2 }),
    draw("text", { class: "muted", x: x(step.end_ms) + 6, y: index * ROW + 15 }, duration(step.end_ms - step.begin_ms)),
  ]);
  const edge = (time, kind, label) => (time === undefined || time > end ? [] : [
    draw("path", { class: kind, d: `M${x(time)} 0V${height - 16}` }),
    draw("text", { class: "muted", x: x(time), y: height - 4, "text-anchor": "middle" }, label),
  ]);
  const text = found.steps.map((step) => `${STEPS[step.name] ?? step.name} ${duration(step.end_ms - step.begin_ms)}`).join(", ");
  return draw("svg", { class: "steps", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": text }, ...rows, ...edge(found.slo_ms || undefined, "edge", "deadline"), ...edge(found.predicted_ms, "promise", "predicted"));
}

function compared(found) {
  const rows = found.compared.map((each) => {
    const later = each.planned_ms === undefined ? null : each.actual_ms - each.planned_ms;
    const name = `${COMPARED[each.name] ?? each.name}${each.name === found.differed ? " (largest delay)" : ""}`;
    return make("tr", {}, make("th", { scope: "row", class: each.name === found.differed ? "bad" : null }, name),
      make("td", { class: "n" }, duration(each.planned_ms)), make("td", { class: "n" }, duration(each.actual_ms)),
      make("td", { class: "n" }, later === null ? "–" : `${later > 0 ? "+" : ""}${duration(later)}`));
  });
  const head = ["", "planned", "actual", "later by"].map((title, index) => (index ? make("th", { scope: "col", class: "n" }, title) : make("td", {})));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The plan and what happened" }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
}
