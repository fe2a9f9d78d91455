// Receives the snapshots of the server, and sends requests for data. EventSource cannot send a token in a header, so
// the stream is read with fetch. Every address is relative, so that the page works behind a path prefix.

const KEY = "clockwork-token";
const RETRY = [500, 1000, 2000, 5000];

export class TokenNeeded extends Error {}

export function token() { return sessionStorage.getItem(KEY) ?? ""; }

export function setToken(value) {
  if (value) sessionStorage.setItem(KEY, value); else sessionStorage.removeItem(KEY);
}

async function request(path, signal) {
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  const response = await fetch(path, { headers, signal, cache: "no-store" });
  if (response.ok) return response;
  let message = `the server replied ${response.status}`;
  try { message = (await response.json()).error ?? message; } catch { /* the reply is not JSON */ }
  if (response.status === 401 || response.status === 403) throw new TokenNeeded(message);
  throw new Error(message);
}

/** Return the JSON at a path. */
export async function getJson(path) { return (await request(path)).json(); }

/** The stream of snapshots. It reconnects until `stop` is called. */
export class Stream {
  constructor({ onMessage, onConnected, onLost, onTokenNeeded }) {
    Object.assign(this, { onMessage, onConnected, onLost, onTokenNeeded });
    this.controller = null;
  }

  start() {
    if (this.controller) return;
    this.controller = new AbortController();
    this.run(this.controller.signal);
  }

  stop() {
    this.controller?.abort();
    this.controller = null;
  }

  restart() { this.stop(); this.start(); }

  async run(signal) {
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      try {
        const response = await request("v2/clockwork/events", signal);
        this.onConnected();
        attempt = 0;
        await this.read(response.body.pipeThrough(new TextDecoderStream()).getReader());
        if (!signal.aborted) this.onLost("the server ended the stream");
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof TokenNeeded) {
          this.controller = null;
          this.onTokenNeeded(error.message);
          return;
        }
        this.onLost(error instanceof TypeError ? "the server does not respond" : error.message);
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY[Math.min(attempt, RETRY.length - 1)]));
    }
  }

  async read(reader) {
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) if (event.startsWith("data: ")) this.onMessage(JSON.parse(event.slice(6)));
    }
  }
}
