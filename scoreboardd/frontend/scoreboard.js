/**
 * A scoreboard that keeps itself current: it fetches the documents of scoreboardd, follows its stream and applies deltas.
 *
 *     import { Scoreboard } from "/scoreboard.js";
 *     const scoreboard = new Scoreboard({ boards: ["teams"] });
 *     scoreboard.addEventListener("board", ({ detail }) => draw(detail.board.entries));
 *     scoreboard.addEventListener("state", ({ detail }) => showStatus(detail.status));
 *     scoreboard.start();
 *
 * To serve the library from your own site, copy these five files into one folder and import `scoreboard.js`: scoreboard.js,
 * board.js, election.js, events.js and sync_state.js. TypeScript needs scoreboard.d.ts beside them. Take all of one release.
 *
 * JavaScript rounds integers beyond 2^53 - 1, so that two ids could become one: a document or a delta with such a number is
 * refused.
 */

import { checkInteger, showVersion } from "./board.js";
import { Election } from "./election.js";
import { StreamParser } from "./events.js";
import { ANSWER_TIMEOUT_SECONDS, RequestFailed, SyncState, TICK_SECONDS, backoff, seconds } from "./sync_state.js";

export { Board, compareBytes, parseVersion, reaches, showVersion } from "./board.js";
export { StreamParser } from "./events.js";
export { backoff, decide } from "./sync_state.js";

const PATHS = { teams: "api/leaderboard/teams", users: "api/leaderboard" };
const STREAM = "api/scoreboard/stream";

/** Seconds. */
const MIN_SLEEP_SECONDS = 10; // a clock that leaps by this much means that the machine slept, if
const MAX_QUIET_SECONDS = 20; // the stream was also silent for this long: background tabs have slow timers too
const SILENCE_TIMEOUT_SECONDS = 70; // heartbeats come more often than every 60 s
const CHECK_INTERVAL_SECONDS = 120; // between two checks of the served version, on average

export class Scoreboard extends EventTarget {
  #syncStates;
  #streamUrl;
  #election = null;
  #channel = null;
  #timer = null;
  #connection = null; // aborts the stream of this tab
  #connectedAt = 0; // when this tab requested the stream
  #attempt = 0;
  #retry = 1 + 4 * Math.random(); // seconds, until the server sends its own
  #dueToConnect = 0;
  #receivedAt = 0; // when this tab or the leading one last received anything from the stream
  #lastEventId = ""; // of the stream of this tab
  #open = false; // the stream, of this tab or of the leading one
  #tickedAt = 0;
  #checkAt = 0;
  #closing = new AbortController();
  #lastState = "";

  constructor({ url = "/", boards = ["teams"], division = null, deltas = true, share = true } = {}) {
    super();
    if (typeof division === "number") checkInteger(division, "division");
    const at = (path, query) => {
      const made = new URL(path, new URL(url, globalThis.location?.href));
      for (const [name, value] of Object.entries(query)) if (value !== null) made.searchParams.set(name, value);
      return made.href;
    };
    const mine = division === null ? null : Number(division);
    const follow = (kind) => new SyncState(kind, at(PATHS[kind], { division_id: division }), mine, this);
    this.#syncStates = new Map(boards.map((kind) => [kind, follow(kind)]));
    this.#streamUrl = at(STREAM, { deltas: deltas ? 1 : null, division_id: division });
    if (share && globalThis.BroadcastChannel) {
      this.#channel = new BroadcastChannel(`scoreboardd ${this.#streamUrl}`);
      this.#channel.onmessage = ({ data }) => this.#receiveFromTab(data);
      this.#election = new Election(`${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`, Math.random);
    }
    this.state = { status: "connecting", since: null, stale: false, leading: false, problem: null };
  }

  get closing() {
    return this.#closing.signal;
  }

  /** The board of "teams" or "users" as it is now; null before the first. */
  board(kind) {
    return this.#syncStates.get(kind)?.board ?? null;
  }

  start() {
    this.#tickedAt = seconds();
    this.#checkAt = seconds() + CHECK_INTERVAL_SECONDS * (0.5 + Math.random());
    for (const sync of this.#syncStates.values()) sync.fetchUntil(null);
    this.#post(this.#election?.start(seconds()) ?? []);
    this.#timer = setInterval(() => this.#tick(), TICK_SECONDS * 1000);
    this.#tick();
  }

  close() {
    clearInterval(this.#timer);
    this.#post(this.#election?.leave() ?? []);
    this.#closing.abort();
    this.#dropStream();
    this.#channel?.close();
    this.changed();
  }

  /** Look for changes at once: the page is visible again, or the network is back. */
  wake() {
    if (this.#open ? seconds() - this.#receivedAt > MAX_QUIET_SECONDS : this.#connection === null) this.#dropStream();
    for (const sync of this.#syncStates.values()) sync.retry();
    this.#checkAt = 0;
    this.#tick();
  }

  /** Fetch the documents and compare: true if the boards equal them. */
  async verify() {
    const found = await Promise.all([...this.#syncStates.values()].map((sync) => sync.verify()));
    return found.every(Boolean);
  }

  // Called by the sync states.

  show(board, before, reason) {
    this.#emit("board", { kind: board.kind, board, before, reason });
  }

  changed() {
    const syncStates = [...this.#syncStates.values()];
    const problem = syncStates.find((sync) => sync.failing)?.failing.error.message ?? null;
    const current = this.#open && problem === null && syncStates.every((sync) => sync.board !== null);
    const catchingUp = syncStates.some((sync) => sync.behind);
    const status = this.#closing.signal.aborted
      ? "closed"
      : syncStates.some((sync) => sync.board === null)
        ? "connecting"
        : current
          ? "live"
          : "reconnecting";
    // A live board is current; another one was current when the stream last sent something.
    const quiet = status === "live" || this.#receivedAt === 0 ? 0 : seconds() - this.#receivedAt;
    const last = Date.now() - 1000 * quiet;
    const since = status === "live" && !catchingUp ? null : (this.state.since ?? last);
    const stale = syncStates.some((sync) => sync.stale);
    const leading = this.#connection !== null;
    this.state = { status, since, stale, leading, problem };
    const said = JSON.stringify(this.state);
    if (said !== this.#lastState) {
      this.#lastState = said;
      this.#emit("state", this.state);
    }
  }

  #emit(type, detail) {
    this.dispatchEvent(Object.assign(new Event(type), { detail }));
  }

  #tick() {
    const now = seconds();
    const slept = now - this.#tickedAt > MIN_SLEEP_SECONDS && now - this.#receivedAt > MAX_QUIET_SECONDS;
    this.#tickedAt = now;
    if (slept) {
      this.#dropStream();
      for (const sync of this.#syncStates.values()) sync.abandon();
      this.#checkAt = 0;
    }
    if (this.#election) this.#post(this.#election.tick(now));
    const leads = !this.#election || this.#election.role === "leader";
    if (this.#open && now - this.#receivedAt > (leads ? SILENCE_TIMEOUT_SECONDS : Election.SILENCE + 2 * Election.BEAT)) this.#dropStream();
    if (this.#connection && !this.#open && now - this.#connectedAt > ANSWER_TIMEOUT_SECONDS) this.#connection.abort();
    if (leads && !this.#connection && now >= this.#dueToConnect) this.#connect();
    for (const sync of this.#syncStates.values()) sync.tick(now);
    if (now >= this.#checkAt) {
      this.#checkAt = now + CHECK_INTERVAL_SECONDS * (0.5 + Math.random());
      for (const sync of this.#syncStates.values()) sync.check().catch(() => {}); // the state of the stream shows a failure
    }
    this.changed();
  }

  /** Drop the stream; the next tick opens another one if this tab leads. */
  #dropStream() {
    this.#connection?.abort();
    this.#connection = null;
    this.#open = false;
    this.#attempt = 0;
    this.#dueToConnect = 0;
  }

  async #connect() {
    const connection = (this.#connection = new AbortController());
    this.#connectedAt = seconds();
    let least = 0;
    try {
      await this.#follow(connection);
    } catch (error) {
      least = error.retryAfter ?? 0;
    }
    if (this.#connection !== connection) return; // dropped: there may be another one now
    connection.abort(); // a stream that cannot be parsed may go on
    this.#connection = null;
    this.#open = false;
    this.#dueToConnect = seconds() + Math.max(least, backoff(this.#attempt++, this.#retry, Math.random()));
    this.#post(this.#election?.role === "leader" ? [{ type: "lead" }] : []);
    this.changed();
  }

  async #follow(connection) {
    const headers = { Accept: "text/event-stream" };
    const held = [...this.#syncStates.values()].map((sync) => sync.held);
    // The oldest held version: a newer board ignores events that it includes.
    if (held.length && held.every((version) => version?.epoch === held[0]?.epoch && version !== null)) {
      headers["Last-Event-ID"] = showVersion(held.reduce((a, b) => (a.number < b.number ? a : b)));
    }
    const response = await fetch(this.#streamUrl, { headers, signal: connection.signal, cache: "no-store" });
    if (!response.ok) throw new RequestFailed(response);
    const parser = new StreamParser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || connection.signal.aborted) return;
      this.#receivedAt = seconds();
      for (const event of parser.feed(value)) {
        if (event.event === "ready") {
          this.#attempt = 0;
          this.#open = true;
        }
        event.after = this.#lastEventId;
        this.#lastEventId = event.id;
        this.#receive(event);
        this.#post([{ type: "event", event }]);
      }
      if (parser.retry !== null) this.#retry = parser.retry / 1000;
    }
  }

  #receive({ id, event, data, after }) {
    let parsed = null;
    try {
      parsed = JSON.parse(data);
    } catch {
      // Its id still has the version.
    }
    for (const sync of this.#syncStates.values()) sync.receive({ id, event, data: parsed, after });
    this.changed();
  }

  #receiveFromTab(message) {
    if (this.#closing.signal.aborted) return;
    const now = seconds();
    this.#post(this.#election.receive(message, now));
    if (message.from !== this.#election.leader || this.#election.role !== "follower") return;
    if (this.#connection) this.#dropStream(); // the leading tab keeps its own stream
    if (message.type === "lead") {
      this.#open = message.open;
      this.#receivedAt = now;
      // This tab may have opened after that event, or slept through it.
      if (message.open) this.#receive({ id: message.lastEventId, event: "ready", data: "{}" });
      this.changed();
    } else if (message.type === "event") {
      this.#open = true;
      this.#receivedAt = now;
      this.#receive(message.event);
    }
  }

  #post(messages) {
    for (const message of messages) {
      this.#channel?.postMessage({ ...message, from: this.#election.id, open: this.#open, lastEventId: this.#lastEventId });
    }
  }
}
