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
import { ANSWER, RequestFailed, SyncState, TICK, backoff, seconds } from "./sync_state.js";

export { Board, compareBytes, parseVersion, reaches, showVersion } from "./board.js";
export { StreamParser } from "./events.js";
export { backoff, decide } from "./sync_state.js";

const PATHS = { teams: "api/leaderboard/teams", users: "api/leaderboard" };
const STREAM = "api/scoreboard/stream";

/** Seconds. */
const JUMP = 10; // a clock that leaps so far has slept, if
const QUIET = 20; // … the stream was silent for so long: background tabs have slow clocks too
const SILENT = 70; // heartbeats come more often than every 60 s
const CHECK = 120; // between two looks at whether what is held is still what is served

export class Scoreboard extends EventTarget {
  #keepers;
  #streamUrl;
  #election = null;
  #channel = null;
  #timer = null;
  #connection = null; // aborts the stream that this tab holds
  #askedAt = 0; // when it asked for it
  #attempt = 0;
  #retry = 1 + 4 * Math.random(); // seconds, until the server says
  #dueToConnect = 0;
  #heardAt = 0; // when the stream last gave a sign of life, here or in the leading tab
  #told = ""; // the id of the last event of the stream that this tab holds
  #open = false; // the stream is, here or there
  #tickedAt = 0;
  #checkAt = 0;
  #closing = new AbortController();
  #said = "";

  constructor({ url = "/", boards = ["teams"], division = null, deltas = true, share = true } = {}) {
    super();
    if (typeof division === "number") checkInteger(division, "division");
    const at = (path, query) => {
      const made = new URL(path, new URL(url, globalThis.location?.href));
      for (const [name, value] of Object.entries(query)) if (value !== null) made.searchParams.set(name, value);
      return made.href;
    };
    const mine = division === null ? null : Number(division);
    this.#keepers = new Map(boards.map((kind) => [kind, new SyncState(kind, at(PATHS[kind], { division_id: division }), mine, this)]));
    this.#streamUrl = at(STREAM, { deltas: deltas ? 1 : null, division_id: division });
    if (share && globalThis.BroadcastChannel) {
      this.#channel = new BroadcastChannel(`scoreboardd ${this.#streamUrl}`);
      this.#channel.onmessage = ({ data }) => this.#hearTab(data);
      this.#election = new Election(`${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`, Math.random);
    }
    this.state = { status: "connecting", since: null, stale: false, leading: false, problem: null };
  }

  get closing() {
    return this.#closing.signal;
  }

  /** The board of "teams" or "users" as it is now; null before the first. */
  board(kind) {
    return this.#keepers.get(kind)?.board ?? null;
  }

  start() {
    this.#tickedAt = seconds();
    this.#checkAt = seconds() + CHECK * (0.5 + Math.random());
    for (const keeper of this.#keepers.values()) keeper.want(null);
    this.#post(this.#election?.start(seconds()) ?? []);
    this.#timer = setInterval(() => this.#tick(), TICK * 1000);
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

  /** Something happened that makes it worth while to look at once: the page is visible again, the network is back. */
  wake() {
    if (this.#open ? seconds() - this.#heardAt > QUIET : this.#connection === null) this.#dropStream();
    for (const keeper of this.#keepers.values()) keeper.retry();
    this.#checkAt = 0;
    this.#tick();
  }

  /** Fetch the documents and compare: true if what deltas have led to is exactly what is served. */
  async verify() {
    const found = await Promise.all([...this.#keepers.values()].map((keeper) => keeper.verify()));
    return found.every(Boolean);
  }

  // Called by the keepers.

  show(board, before, reason) {
    this.#tell("board", { kind: board.kind, board, before, reason });
  }

  changed() {
    const keepers = [...this.#keepers.values()];
    const problem = keepers.find((keeper) => keeper.failing)?.failing.error.message ?? null;
    const current = this.#open && problem === null && keepers.every((keeper) => keeper.board !== null);
    const catchingUp = keepers.some((keeper) => keeper.behind);
    const status = this.#closing.signal.aborted
      ? "closed"
      : keepers.some((keeper) => keeper.board === null)
        ? "connecting"
        : current
          ? "live"
          : "reconnecting";
    // While live what is shown is of now; else it is of when that last was so.
    const quiet = status === "live" || this.#heardAt === 0 ? 0 : seconds() - this.#heardAt;
    const last = Date.now() - 1000 * quiet;
    const since = status === "live" && !catchingUp ? null : (this.state.since ?? last);
    const stale = keepers.some((keeper) => keeper.stale);
    const leading = this.#connection !== null;
    this.state = { status, since, stale, leading, problem };
    const said = JSON.stringify(this.state);
    if (said !== this.#said) {
      this.#said = said;
      this.#tell("state", this.state);
    }
  }

  #tell(type, detail) {
    this.dispatchEvent(Object.assign(new Event(type), { detail }));
  }

  #tick() {
    const now = seconds();
    const slept = now - this.#tickedAt > JUMP && now - this.#heardAt > QUIET;
    this.#tickedAt = now;
    if (slept) {
      this.#dropStream();
      for (const keeper of this.#keepers.values()) keeper.abandon();
      this.#checkAt = 0;
    }
    if (this.#election) this.#post(this.#election.tick(now));
    const leads = !this.#election || this.#election.role === "leader";
    if (this.#open && now - this.#heardAt > (leads ? SILENT : Election.SILENCE + 2 * Election.BEAT)) this.#dropStream();
    if (this.#connection && !this.#open && now - this.#askedAt > ANSWER) this.#connection.abort();
    if (leads && !this.#connection && now >= this.#dueToConnect) this.#connect();
    for (const keeper of this.#keepers.values()) keeper.tick(now);
    if (now >= this.#checkAt) {
      this.#checkAt = now + CHECK * (0.5 + Math.random());
      for (const keeper of this.#keepers.values()) keeper.check().catch(() => {}); // the stream tells how we are
    }
    this.changed();
  }

  /** Whatever there was, if there is to be a stream then another one, at once. */
  #dropStream() {
    this.#connection?.abort();
    this.#connection = null;
    this.#open = false;
    this.#attempt = 0;
    this.#dueToConnect = 0;
  }

  async #connect() {
    const connection = (this.#connection = new AbortController());
    this.#askedAt = seconds();
    let least = 0;
    try {
      await this.#follow(connection);
    } catch (error) {
      least = error.retryAfter ?? 0;
    }
    if (this.#connection !== connection) return; // dropped: there may be another by now
    connection.abort(); // it may go on with what cannot be read
    this.#connection = null;
    this.#open = false;
    this.#dueToConnect = seconds() + Math.max(least, backoff(this.#attempt++, this.#retry, Math.random()));
    this.#post(this.#election?.role === "leader" ? [{ say: "lead" }] : []);
    this.changed();
  }

  async #follow(connection) {
    const headers = { Accept: "text/event-stream" };
    const held = [...this.#keepers.values()].map((keeper) => keeper.held);
    // The oldest of what is held: a board that has more ignores what it knows.
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
      this.#heardAt = seconds();
      for (const event of parser.feed(value)) {
        if (event.event === "ready") {
          this.#attempt = 0;
          this.#open = true;
        }
        event.after = this.#told;
        this.#told = event.id;
        this.#hear(event);
        this.#post([{ say: "event", event }]);
      }
      if (parser.retry !== null) this.#retry = parser.retry / 1000;
    }
  }

  #hear({ id, event, data, after }) {
    let parsed = null;
    try {
      parsed = JSON.parse(data);
    } catch {
      // Its id says at least which version there is.
    }
    for (const keeper of this.#keepers.values()) keeper.hear({ id, event, data: parsed, after });
    this.changed();
  }

  #hearTab(message) {
    if (this.#closing.signal.aborted) return;
    const now = seconds();
    this.#post(this.#election.hear(message, now));
    if (message.from !== this.#election.leader || this.#election.role !== "follower") return;
    if (this.#connection) this.#dropStream(); // it goes on with its own
    if (message.say === "lead") {
      this.#open = message.open;
      this.#heardAt = now;
      // This tab may have come later than that, or have slept through it.
      if (message.open) this.#hear({ id: message.told, event: "ready", data: "{}" });
      this.changed();
    } else if (message.say === "event") {
      this.#open = true;
      this.#heardAt = now;
      this.#hear(message.event);
    }
  }

  #post(messages) {
    for (const message of messages) {
      this.#channel?.postMessage({ ...message, from: this.#election.id, open: this.#open, told: this.#told });
    }
  }
}
