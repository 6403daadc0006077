/** What a client holds of one board, and when it fetches the document. The counterpart of `client/sync_state.py`. */

import { Board, parseVersion, reaches, showVersion } from "./board.js";

/** Browsers that receive a version at the same instant spread their requests for it over this time. */
const SPREAD_SECONDS = 0.3;
/** The missed events have to follow a `ready` within this time. */
const GRACE_SECONDS = 2;
/** Bounds the time over which a server may spread a reset. */
const MAX_SPREAD_SECONDS = 600;

/** Fetch the document at a random time within `within` seconds; `version` is the one that it has to reach. */
const refetch = (version, within) => ({ do: "refetch", version, within });

/**
 * Decide what an event of the stream means for a board at `held` (null: no board yet) of a division (null: everyone's).
 * `data` is any parsed JSON; `after` is the id of the event before it in the stream.
 */
export function decide(held, { id, event, data, after }, division = null) {
  const version = parseVersion(id);
  if (version === null || reaches(held, version)) return { do: "ignore" };
  switch (event) {
    case "delta":
      // Nothing in a delta is relative: it also fits a board that is past its beginning.
      return held?.epoch === version.epoch && Number.isSafeInteger(data?.from) && held.number >= data.from
        ? { do: "apply" }
        : refetch(version, SPREAD_SECONDS);
    case "scoreboard":
      return isElsewhere(data, division) && follows(held, after, version)
        ? { do: "advance", version }
        : refetch(version, SPREAD_SECONDS);
    case "reset":
      return refetch(version, Number.isFinite(data?.spread) && data.spread >= 0 ? Math.min(data.spread, MAX_SPREAD_SECONDS) : SPREAD_SECONDS);
    case "ready":
      // The missed events follow, at least to the tab that connected: another tab may have missed more.
      return { ...refetch(version, SPREAD_SECONDS), after: GRACE_SECONDS };
    default:
      return { do: "ignore" };
  }
}

/** True if a notice names the divisions whose boards may have changed, and this one is not among them. */
function isElsewhere(data, division) {
  const ids = data?.division_ids;
  return division !== null && Array.isArray(ids) && ids.length > 0 && !ids.includes(division);
}

/** True if a board at `held` misses nothing but the event of `version`; `after` is the id of the event before it. */
function follows(held, after, version) {
  const before = parseVersion(after);
  return before !== null && before.epoch === version.epoch && reaches(held, before);
}

/** Seconds to wait before attempt `attempt` (from 0) to connect. `retry`, in seconds, is what the server asked for. */
export function backoff(attempt, retry, random) {
  return Math.min(15, retry * 2 ** attempt) * (attempt === 0 ? 1 : 0.5 + random / 2);
}

export const ANSWER_TIMEOUT_SECONDS = 15; // seconds for the head of a response, and for the beginning of the stream
export const TICK_SECONDS = 0.25; // seconds between two looks at what is due
const DOCUMENT_TIMEOUT_SECONDS = 120; // seconds for all of a document
const MIN_STALE_SECONDS = 30; // seconds after which a document that the server labels as stale counts as such
/** Fetches in a row that may fall short of the announced version. */
const MAX_SHORT_ANSWERS = 8;

let clock = 0; // milliseconds, as last read
let setBack = 0; // milliseconds by which the clock was set back in all

/** Seconds of a clock that goes on during sleep, unlike performance.now, and never goes back, unlike Date.now. */
export function seconds() {
  const now = Date.now();
  setBack += Math.max(0, clock - now);
  clock = now;
  return (now + setBack) / 1000;
}

const sleep = (duration, signal) =>
  new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(resolve, duration * 1000);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });

export class RequestFailed extends Error {
  constructor(response) {
    super(`the server answers ${response.status}`);
    this.status = response.status;
    // Other clients received the same value.
    this.retryAfter = (Number(response.headers.get("Retry-After")) || 0) * (1 + Math.random() / 2);
  }
}

function versionOf(response) {
  const version = parseVersion(response.headers.get("X-Scoreboard-Version"));
  if (version === null) throw new Error("the answer has no usable X-Scoreboard-Version: see cors_origins, or the proxy");
  return version;
}

/** Keeps one board current: applies deltas, and fetches the document when they do not lead to the announced version. */
export class SyncState {
  board = null;
  /** How the last fetch failed: `{error, attempt, until}`; null if it succeeded. */
  failing = null;
  /** The server labels what it serves as stale. */
  stale = false;
  #etag = null; // of what was fetched last
  #unusable = null; // why the document fetched last was refused
  #wanted = null; // the version that has to be reached
  #due = Infinity; // when to fetch
  #spread = false; // the server chose #due: later events must not bring all clients back at once
  #fetching = false;
  #waiting = []; // deltas received while fetching
  #shortAnswers = 0; // fetches in a row that did not reach #wanted
  #requests = new AbortController();

  constructor(kind, url, division, host) {
    this.kind = kind;
    this.url = url;
    this.division = division;
    this.host = host;
  }

  get held() {
    return this.board?.version ?? null;
  }

  /** True if an announced version is not held yet. */
  get behind() {
    return this.board === null || (this.#wanted !== null && !reaches(this.held, this.#wanted));
  }

  receive(event) {
    if (event.event === "delta" && this.#fetching) {
      this.#waiting.push(event);
      return;
    }
    const decision = decide(this.held, event, this.division);
    if (decision.do === "apply") {
      this.#apply(event);
    } else if (decision.do === "advance") {
      this.#show(this.board.at(decision.version), "elsewhere");
    } else if (decision.do === "refetch") {
      this.fetchUntil(decision.version, (decision.after ?? 0) + decision.within * Math.random(), event.event === "reset");
    }
  }

  /** Fetch after `after` seconds, until `version` (null: any) is held. `spread`: the server chose the delay. */
  fetchUntil(version, after = 0, spread = false) {
    if (version === null || !reaches(this.#wanted, version)) this.#wanted = version;
    if (spread && !this.#spread) {
      this.#spread = true;
      this.#due = seconds() + after;
    }
    this.#plan(after);
  }

  tick(now) {
    if (this.#due > now || this.#fetching || this.failing?.until > now) return;
    this.#due = Infinity;
    this.#spread = false;
    if (this.behind) this.#fetchNow();
  }

  /** Retry a failed fetch at once: the network is back. */
  retry() {
    if (this.failing === null) return;
    this.failing.until = 0;
    this.#plan(0);
  }

  /** Abort the requests from before the machine slept: nobody answers them. */
  abandon() {
    this.#requests.abort();
    this.#requests = new AbortController();
  }

  #plan(after) {
    if (!this.#spread) this.#due = Math.min(this.#due, seconds() + after);
  }

  #apply({ id, data }) {
    let next;
    try {
      if (data.version !== parseVersion(id).number) throw new RangeError("it does not lead to the version it came with");
      next = this.board.apply(data);
    } catch (error) {
      console.warn("scoreboard.js fetches the board, for a delta does not fit the one it has:", error);
      this.fetchUntil(parseVersion(id), SPREAD_SECONDS * Math.random());
      return;
    }
    this.stale = false;
    this.#show(next, "delta");
  }

  async #fetchNow() {
    this.#fetching = true;
    try {
      await this.#fetch();
      this.failing = null;
    } catch (error) {
      const attempt = (this.failing?.attempt ?? -1) + 1;
      const until = seconds() + Math.max(error.retryAfter ?? 0, backoff(attempt, 1, Math.random()));
      this.failing = { error, attempt, until };
    }
    this.#fetching = false;
    for (const event of this.#waiting.splice(0)) this.receive(event);
    this.#retryIfBehind();
    this.host.changed();
  }

  /** Fetch again if the answer was behind the announced version: that node lags, or the version was lost with its epoch. */
  #retryIfBehind() {
    if (!this.behind || this.#spread) {
      this.#shortAnswers = 0;
    } else if (this.failing !== null) {
      this.#plan(0);
    } else if (++this.#shortAnswers > MAX_SHORT_ANSWERS) {
      this.#shortAnswers = 0;
      this.#wanted = null;
    } else {
      this.#plan(this.#shortAnswers * (0.25 + Math.random() / 4));
    }
  }

  async #fetch() {
    const response = await this.#get("GET", this.#etag ? { "If-None-Match": this.#etag } : {}, DOCUMENT_TIMEOUT_SECONDS);
    if (response.status === 304) {
      if (this.#unusable !== null) throw this.#unusable;
      return;
    }
    const version = versionOf(response);
    const document = await response.json();
    this.#etag = response.headers.get("ETag");
    this.#unusable = null;
    // Another node may lag: within an epoch nothing goes backwards.
    if (reaches(this.held, version)) return;
    let board;
    try {
      board = Board.fromDocument(this.kind, version, document);
    } catch (error) {
      throw (this.#unusable = error); // and it is not downloaded again before it changes
    }
    this.#show(board, "refetch");
  }

  /** Ask for the served version, without the document. */
  async check() {
    const version = versionOf(await this.#get("HEAD", {}, ANSWER_TIMEOUT_SECONDS));
    this.receive({ id: showVersion(version), event: "ready", data: {} });
  }

  /** True if the served document equals the board that was held at its version. Otherwise show the served one. */
  async verify() {
    const passed = new Map();
    const pass = (board) => board && passed.set(showVersion(board.version), board);
    const listen = ({ detail }) => detail.kind === this.kind && pass(detail.board);
    pass(this.board);
    this.host.addEventListener("board", listen);
    try {
      for (let attempt = 0; attempt < MAX_SHORT_ANSWERS; attempt++) {
        const response = await this.#get("GET", {}, DOCUMENT_TIMEOUT_SECONDS);
        const version = versionOf(response);
        const text = await response.text();
        // The event of the served version may be on its way.
        for (const end = seconds() + GRACE_SECONDS; !reaches(this.held, version) && seconds() < end; ) {
          await sleep(TICK_SECONDS, this.host.closing);
          this.host.closing.throwIfAborted();
        }
        const [then, now] = [passed.get(showVersion(version)), this.held];
        if (then !== undefined && text === JSON.stringify(then.document)) return true;
        if (then !== undefined || !reaches(now, version)) {
          this.#show(Board.fromDocument(this.kind, version, JSON.parse(text)), "verify");
          if (now?.epoch === version.epoch) this.fetchUntil(now);
          return false;
        }
        await sleep(0.5, this.host.closing); // that node is behind, or one delta skipped that version
      }
    } finally {
      this.host.removeEventListener("board", listen);
    }
    throw new Error(`what is served was never held, ${MAX_SHORT_ANSWERS} times`);
  }

  async #get(method, headers, timeout) {
    const signal = AbortSignal.any([this.host.closing, this.#requests.signal, AbortSignal.timeout(timeout * 1000)]);
    const response = await fetch(this.url, { method, headers, signal, cache: "no-store" });
    if (!response.ok && response.status !== 304) throw new RequestFailed(response);
    // Every document is labelled for a moment after a change, while it is rebuilt.
    const labelled = (response.headers.get("X-Scoreboard-Cache") ?? "").startsWith("stale-");
    this.stale = labelled && Number(response.headers.get("Age")) >= MIN_STALE_SECONDS;
    return response;
  }

  #show(board, reason) {
    const before = this.board;
    this.board = board;
    if (!this.behind) this.failing = null;
    this.host.show(board, before, reason);
  }
}
