/** What a client holds of one board, and when it fetches the document. The counterpart of `client/sync_state.py`. */

import { Board, parseVersion, reaches, showVersion } from "./board.js";

/** Seconds over which browsers that were told of a version at the same instant spread their requests for it. */
const SPREAD = 0.3;
/** Seconds within which what `ready` says was missed has to have come. */
const GRACE = 2;
/** Seconds over which a server may spread a reset. */
const MOST_SPREAD = 600;

/** Fetch the document at a random time within `within` seconds; `version` is the one that it has to reach. */
const refetch = (version, within) => ({ do: "refetch", version, within });

/**
 * What to do about an event of the stream for the board of a division (null: everyone's) that is held at `held`, null if
 * none is. `data` is parsed: anything; `after` is the id of the event before it in the stream.
 */
export function decide(held, { id, event, data, after }, division = null) {
  const version = parseVersion(id);
  if (version === null || reaches(held, version)) return { do: "ignore" };
  switch (event) {
    case "delta":
      // Nothing in a delta is relative: whoever is past its beginning may take it all the same.
      return held?.epoch === version.epoch && Number.isSafeInteger(data?.from) && held.number >= data.from
        ? { do: "apply" }
        : refetch(version, SPREAD);
    case "scoreboard":
      return isElsewhere(data, division) && follows(held, after, version)
        ? { do: "advance", version }
        : refetch(version, SPREAD);
    case "reset":
      return refetch(version, Number.isFinite(data?.spread) && data.spread >= 0 ? Math.min(data.spread, MOST_SPREAD) : SPREAD);
    case "ready":
      // What was missed is on its way, to the tab that connected at least: another may have missed more.
      return { ...refetch(version, SPREAD), after: GRACE };
    default:
      return { do: "ignore" };
  }
}

/** True if a notice names the divisions whose boards may have changed, and this one is not among them. */
function isElsewhere(data, division) {
  const ids = data?.division_ids;
  return division !== null && Array.isArray(ids) && ids.length > 0 && !ids.includes(division);
}

/** True if nothing but what the event of `version` tells is new to a board at `held`. */
function follows(held, after, version) {
  const before = parseVersion(after);
  return before !== null && before.epoch === version.epoch && reaches(held, before);
}

/** Seconds to wait before attempt `attempt` (from 0) to connect. `retry`, in seconds, is what the server asked for. */
export function backoff(attempt, retry, random) {
  return Math.min(15, retry * 2 ** attempt) * (attempt === 0 ? 1 : 0.5 + random / 2);
}

export const ANSWER = 15; // seconds for the head of a response, and for the beginning of the stream
export const TICK = 0.25; // seconds between two looks at what is due
const WHOLE = 120; // seconds for all of a document
const OLD = 30; // seconds after which a document that the server labels as stale counts as such
/** Fetches in a row that may fall short of the announced version. */
const PATIENCE = 8;

let clock = 0; // as it was last read, in milliseconds
let setBack = 0; // … by so much in all

/** Seconds that go on during sleep, unlike those of performance.now, and never back, unlike those of Date.now. */
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
    // Others were told the same.
    this.retryAfter = (Number(response.headers.get("Retry-After")) || 0) * (1 + Math.random() / 2);
  }
}

function versionOf(response) {
  const version = parseVersion(response.headers.get("X-Scoreboard-Version"));
  if (version === null) throw new Error("the answer has no usable X-Scoreboard-Version: see cors_origins, or the proxy");
  return version;
}

/** Keeps one board current: holds it, and fetches it whenever it is told of a version that it cannot make itself. */
export class SyncState {
  board = null;
  /** The last fetch did: `{error, attempt, until}`. */
  failing = null;
  /** The server labels what it serves as stale. */
  stale = false;
  #etag = null; // of what was fetched last
  #unusable = null; // why that was no board
  #wanted = null; // the version that has to be reached
  #due = Infinity; // when to fetch
  #spread = false; // … is the server's choice: what it says meanwhile must not bring everyone back at once
  #fetching = false;
  #waiting = []; // deltas that came while fetching
  #short = 0; // fetches in a row that did not reach it
  #asking = new AbortController();

  constructor(kind, url, division, host) {
    this.kind = kind;
    this.url = url;
    this.division = division;
    this.host = host;
  }

  get held() {
    return this.board?.version ?? null;
  }

  /** Told of a version that it does not have yet. */
  get behind() {
    return this.board === null || (this.#wanted !== null && !reaches(this.held, this.#wanted));
  }

  hear(event) {
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
      this.want(decision.version, (decision.after ?? 0) + decision.within * Math.random(), event.event === "reset");
    }
  }

  /** Fetch after so many seconds, until `version` (null: whatever is served) is reached. */
  want(version, after = 0, spread = false) {
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

  /** The network is back: what failed is tried again at once. */
  retry() {
    if (this.failing === null) return;
    this.failing.until = 0;
    this.#plan(0);
  }

  /** What was asked before the machine slept is not answered any more. */
  abandon() {
    this.#asking.abort();
    this.#asking = new AbortController();
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
      this.want(parseVersion(id), SPREAD * Math.random());
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
    for (const event of this.#waiting.splice(0)) this.hear(event);
    this.#comeAgain();
    this.host.changed();
  }

  /** The node that answered may be behind the one that told us; or what we were told has been lost with its epoch. */
  #comeAgain() {
    if (!this.behind || this.#spread) {
      this.#short = 0;
    } else if (this.failing !== null) {
      this.#plan(0);
    } else if (++this.#short > PATIENCE) {
      this.#short = 0;
      this.#wanted = null;
    } else {
      this.#plan(this.#short * (0.25 + Math.random() / 4));
    }
  }

  async #fetch() {
    const response = await this.#get("GET", this.#etag ? { "If-None-Match": this.#etag } : {}, WHOLE);
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
      throw (this.#unusable = error); // and not fetched again before there is another
    }
    this.#show(board, "refetch");
  }

  /** Ask what is served now, without the document. */
  async check() {
    const version = versionOf(await this.#get("HEAD", {}, ANSWER));
    this.hear({ id: showVersion(version), event: "ready", data: {} });
  }

  /** True if what is served is exactly what was held at that version. If it is not, it is what is held from now on. */
  async verify() {
    const passed = new Map();
    const pass = (board) => board && passed.set(showVersion(board.version), board);
    const listen = ({ detail }) => detail.kind === this.kind && pass(detail.board);
    pass(this.board);
    this.host.addEventListener("board", listen);
    try {
      for (let attempt = 0; attempt < PATIENCE; attempt++) {
        const response = await this.#get("GET", {}, WHOLE);
        const version = versionOf(response);
        const text = await response.text();
        // The event that tells of what is served may be on its way.
        for (const end = seconds() + GRACE; !reaches(this.held, version) && seconds() < end; ) {
          await sleep(TICK, this.host.closing);
          this.host.closing.throwIfAborted();
        }
        const [then, now] = [passed.get(showVersion(version)), this.held];
        if (then !== undefined && text === JSON.stringify(then.document)) return true;
        if (then !== undefined || !reaches(now, version)) {
          this.#show(Board.fromDocument(this.kind, version, JSON.parse(text)), "verify");
          if (now?.epoch === version.epoch) this.want(now);
          return false;
        }
        await sleep(0.5, this.host.closing); // that node is behind; or two steps came as one
      }
    } finally {
      this.host.removeEventListener("board", listen);
    }
    throw new Error(`what is served was never held, ${PATIENCE} times`);
  }

  async #get(method, headers, timeout) {
    const signal = AbortSignal.any([this.host.closing, this.#asking.signal, AbortSignal.timeout(timeout * 1000)]);
    const response = await fetch(this.url, { method, headers, signal, cache: "no-store" });
    if (!response.ok && response.status !== 304) throw new RequestFailed(response);
    // A moment after a change every document is labelled: that is the time it takes to rebuild.
    const labelled = (response.headers.get("X-Scoreboard-Cache") ?? "").startsWith("stale-");
    this.stale = labelled && Number(response.headers.get("Age")) >= OLD;
    return response;
  }

  #show(board, reason) {
    const before = this.board;
    this.board = board;
    if (!this.behind) this.failing = null;
    this.host.show(board, before, reason);
  }
}
