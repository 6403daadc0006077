/**
 * A scoreboard that keeps itself current: it fetches the documents of scoreboardd, follows its stream and applies deltas.
 *
 *     import { Scoreboard } from "/scoreboard.js";
 *     const scoreboard = new Scoreboard({ boards: ["teams"] });
 *     scoreboard.addEventListener("board", ({ detail }) => draw(detail.board.entries));
 *     scoreboard.addEventListener("state", ({ detail }) => say(detail.status));
 *     scoreboard.start();
 *
 * First half: the core, pure and without a clock. Second half: the shell, which does what the core decides.
 * The types are in scoreboard.d.ts. JavaScript rounds integers beyond 2^53 - 1, so that two ids could become one: a document
 * or a delta with such a number is refused.
 */

// --- versions ----------------------------------------------------------------------------------------------------

/** `<epoch>-<number>`, or null for anything else; a number that JavaScript would round is something else. */
export function parseVersion(text) {
  const match = /^([0-9a-z]{1,32})-([0-9]{1,18})$/.exec(text ?? "");
  const number = Number(match?.[2]);
  return Number.isSafeInteger(number) ? { epoch: match[1], number } : null;
}

export const showVersion = (version) => `${version.epoch}-${version.number}`;

/** True if whoever holds `held` has all that `version` says. Two epochs have no order: the newly told one is the truth. */
export const reaches = (held, version) =>
  held !== null && held.epoch === version.epoch && held.number >= version.number;

// --- what a server may say ---------------------------------------------------------------------------------------

/** Check that `value`, which the error calls `what`, is an integer and has not been rounded. */
function checkInteger(value, what) {
  if (Number.isSafeInteger(value)) return;
  if (Number.isInteger(value)) throw new RangeError(`${what} is beyond 2^53 - 1: browsers cannot tell such numbers apart`);
  throw new TypeError(`${what} is not an integer`);
}

function checkString(value, what) {
  if (typeof value !== "string") throw new TypeError(`${what} is not a string`);
}

function checkChallenge({ id, title, category, points }) {
  checkInteger(id, "the id of a challenge");
  checkInteger(points, "the points of a challenge");
  checkString(title, "the title of a challenge");
  checkString(category, "the category of a challenge");
}

function checkDocument(kind, { challenges, entries }) {
  const [idField, nameField] = FIELDS[kind];
  for (const challenge of challenges) checkChallenge(challenge);
  const known = new Set(challenges.map(({ id }) => id));
  for (const { [idField]: id, [nameField]: name, score, solves } of entries) {
    checkInteger(id, `the id of ${WHO[kind]}`);
    checkInteger(score, "a score");
    checkString(name, `the name of ${WHO[kind]}`);
    for (const { challenge_id, solved_at } of solves) {
      if (!known.has(challenge_id)) throw new RangeError("a solve of no challenge");
      checkString(solved_at, "the time of a solve");
    }
  }
}

/** Check what a board of this kind takes from a delta. Whether it fits that board is found out when it is applied. */
function checkDelta(kind, { from, version, challenges = {}, [kind]: owners = {} }) {
  const [id, name] = [`the id of ${WHO[kind]}`, `the name of ${WHO[kind]}`];
  checkInteger(from, "the beginning of a delta");
  checkInteger(version, "the version of a delta");
  if (from >= version) throw new RangeError("a delta that leads nowhere");
  for (const challenge of challenges.put ?? []) checkChallenge(challenge);
  for (const dropped of challenges.drop ?? []) checkInteger(dropped, "the id of a challenge");
  for (const [id, points] of challenges.points ?? []) checkChallenge({ id, title: "", category: "", points });
  for (const [put, called] of owners.put ?? []) checkInteger(put, id), checkString(called, name);
  for (const dropped of owners.drop ?? []) checkInteger(dropped, id);
  for (const [owner, challenge] of [...(owners.solves ?? []), ...(owners.unsolves ?? [])]) {
    checkInteger(owner, id);
    checkInteger(challenge, "the id of a challenge");
  }
  for (const [, , at, firstBlood] of owners.solves ?? []) {
    checkString(at, "the time of a solve");
    if (firstBlood !== 0 && firstBlood !== 1) throw new TypeError("a first blood is neither 0 nor 1");
  }
}

// --- boards ------------------------------------------------------------------------------------------------------

const WHO = { teams: "a team", users: "a user" };
const FIELDS = { teams: ["team_id", "team_name"], users: ["user_id", "username"] };

/**
 * The board of the teams or of the users, at one version. Immutable: `apply` makes another, and shares what is the same.
 * `challenges` and `entries` are as in the document: challenges by id, entries by rank, solves by challenge.
 */
export class Board {
  #byId = null;

  constructor(kind, version, challenges, entries) {
    this.kind = kind;
    this.version = version;
    this.challenges = challenges;
    this.entries = entries;
  }

  /** Throws if a number in it is beyond 2^53 - 1, or if it is no document. */
  static fromDocument(kind, version, document) {
    checkDocument(kind, document);
    return new Board(kind, version, document.challenges, document.entries);
  }

  get document() {
    return { challenges: this.challenges, entries: this.entries };
  }

  /** The same board at another version. */
  at(version) {
    return new Board(this.kind, version, this.challenges, this.entries);
  }

  idOf(entry) {
    return entry[FIELDS[this.kind][0]];
  }

  nameOf(entry) {
    return entry[FIELDS[this.kind][1]];
  }

  get byId() {
    return (this.#byId ??= new Map(this.entries.map((entry) => [this.idOf(entry), entry])));
  }

  /**
   * The board that `delta`, the data of a `delta` event, leads to. It begins at this version or before, and ends after.
   * Throws if it is no delta or does not fit this board. It looks at few solves, since a page with a board of
   * 30,000 does this whenever somebody solves something.
   */
  apply(delta) {
    checkDelta(this.kind, delta);
    const [idField, nameField] = FIELDS[this.kind];
    const challenges = applyToChallenges(this.challenges, delta.challenges ?? {});
    const gone = delta.challenges?.drop ?? [];
    const { names, dropped, cells } = newsOfOwners(delta[this.kind] ?? {});
    const scoreOf = scoring(this.challenges, challenges);
    const stay = []; // where they are, among each other
    const move = [];
    const take = (entry) => {
      const id = entry[idField];
      const name = names.get(id) ?? entry[nameField];
      const mine = cells.get(id);
      const differs = mine !== undefined || gone.some((challenge) => has(entry, challenge));
      const solves = differs ? solvesAfter(entry, gone, mine) : entry.solves;
      const score = scoreOf(entry, solves);
      const moves = score !== entry.score || name !== entry[nameField];
      (moves ? move : stay).push(moves || differs ? { [idField]: id, [nameField]: name, score, solves } : entry);
      names.delete(id);
      cells.delete(id);
    };
    for (const entry of this.entries) if (!dropped.has(entry[idField])) take(entry);
    for (const id of [...names.keys()]) take({ [idField]: id, [nameField]: null, score: 0, solves: [] });
    if (cells.size) throw new Error(`there are no ${this.kind} ${[...cells.keys()]}`);

    const version = { epoch: this.version.epoch, number: delta.version };
    return new Board(this.kind, version, challenges, merged(stay, move, ORDER[this.kind]));
  }
}

/** The order of the document. */
const ORDER = {
  teams: (a, b) => b.score - a.score || compareBytes(a.team_name, b.team_name) || a.team_id - b.team_id,
  users: (a, b) => b.score - a.score || a.user_id - b.user_id,
};

function applyToChallenges(challenges, { put = [], drop = [], points = [] }) {
  if (!(put.length || drop.length || points.length)) return challenges;
  const now = new Map(challenges.map((challenge) => [challenge.id, challenge]));
  for (const id of drop) now.delete(id);
  for (const { id, title, category, points } of put) now.set(id, { id, title, category, points });
  for (const [id, worth] of points) {
    if (!now.has(id)) throw new RangeError(`no challenge ${id}`);
    now.set(id, { ...now.get(id), points: worth });
  }
  return [...now.values()].sort((a, b) => a.id - b.id);
}

/** By owner. `cells` are its solves that are new, by challenge, and null for one that it has no more. */
function newsOfOwners({ put = [], drop = [], solves = [], unsolves = [] }) {
  const cells = new Map();
  const of = (id) => cells.get(id) ?? cells.set(id, new Map()).get(id);
  for (const [id, challenge] of unsolves) of(id).set(challenge, null);
  for (const [id, challenge, at, firstBlood] of solves) {
    of(id).set(challenge, { challenge_id: challenge, solved_at: at, is_first_blood: firstBlood === 1 });
  }
  return { names: new Map(put), dropped: new Set(drop), cells };
}

function solvesAfter({ solves }, gone, mine = new Map()) {
  const now = new Map(solves.map((solve) => [solve.challenge_id, solve]));
  for (const challenge of gone) now.delete(challenge);
  for (const [challenge, solve] of mine) {
    if (solve === null) now.delete(challenge);
    else now.set(challenge, solve);
  }
  return [...now.values()].sort((a, b) => a.challenge_id - b.challenge_id);
}

/** So many challenges may be worth something else before it is cheaper to add up every score anew. */
const FEW = 4;

/** What the score is of an entry that has `solves` now, its score being of when the challenges were as `before`. */
function scoring(before, now) {
  const worth = new Map(now.map(({ id, points }) => [id, points]));
  const gains = before
    .map(({ id, points }) => [id, (worth.get(id) ?? points) - points])
    .filter(([, gain]) => gain !== 0);
  return (entry, solves) => {
    let score = 0;
    if (solves === entry.solves && gains.length <= FEW) {
      score = entry.score;
      for (const [challenge, gain] of gains) if (has(entry, challenge)) score += gain;
    } else {
      for (const { challenge_id } of solves) score += worth.get(challenge_id);
    }
    if (Number.isNaN(score)) throw new RangeError("a solve of no challenge");
    checkInteger(score, "a score");
    return score;
  };
}

function has({ solves }, challenge) {
  let [low, high] = [0, solves.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (solves[middle].challenge_id < challenge) low = middle + 1;
    else high = middle;
  }
  return solves[low]?.challenge_id === challenge;
}

/** Of the entries in `sorted`, which are in order, and those in `others`. */
function merged(sorted, others, order) {
  const all = [];
  let next = 0;
  for (const other of others.sort(order)) {
    while (next < sorted.length && order(sorted[next], other) < 0) all.push(sorted[next++]);
    all.push(other);
  }
  while (next < sorted.length) all.push(sorted[next++]);
  return all;
}

/** As their UTF-8 bytes compare, which is by code point; JavaScript itself compares by UTF-16 unit. */
export function compareBytes(a, b) {
  const shorter = Math.min(a.length, b.length);
  for (let i = 0; i < shorter; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) return aboveTheRest(x) - aboveTheRest(y);
  }
  return a.length - b.length;
}

/** Surrogates stand for code points above all others. */
const aboveTheRest = (unit) => (unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit);

// --- the stream --------------------------------------------------------------------------------------------------

/** Characters that a line, and the data of an event, may have. */
const MOST = 8 * 1024 * 1024;

/**
 * `text/event-stream`, fed in any pieces, to events `{id, event, data}` and what the server says of `retry`, as the WHATWG
 * HTML standard (section 9.2.6) interprets it. The text is decoded before, which replaces what is not UTF-8 and removes a byte
 * order mark.
 */
export class StreamParser {
  #line = ""; // the beginning of one whose end has not come
  #afterCr = false; // the last character was a CR: an LF that comes now belongs to it
  #id = "";
  #event = "";
  #data = null;
  /** Milliseconds, as last said; null until then. */
  retry = null;

  feed(text) {
    if (text === "") return [];
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const pieces = text.split(/\r\n?|\n/);
    const rest = pieces.pop();
    const events = [];
    for (const piece of pieces) {
      const line = this.#grown(piece);
      this.#line = "";
      if (line !== "") this.#process(line);
      else if (this.#data !== null) events.push(this.#dispatched());
      else this.#event = "";
    }
    this.#line = this.#grown(rest);
    return events;
  }

  #grown(piece) {
    if (this.#line.length + piece.length > MOST) throw new RangeError(`a line of more than ${MOST} characters`);
    return this.#line + piece;
  }

  #process(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") {
      this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
      if (this.#data.length > MOST) throw new RangeError(`an event of more than ${MOST} characters`);
    } else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatched() {
    const event = { id: this.#id, event: this.#event || "message", data: this.#data };
    this.#event = "";
    this.#data = null;
    return event;
  }
}

export const IGNORE = { do: "ignore" };
export const APPLY = { do: "apply" };
/** Fetch the document at a random time within so many seconds; `version` is the one it has to reach. */
export const refetch = (version, within) => ({ do: "refetch", version, within });

/** Seconds over which browsers that were told of a version at the same instant spread their requests for it. */
const SPREAD = 0.3;
/** Seconds within which what `ready` says was missed has to have come. */
const GRACE = 2;
/** Seconds over which a server may spread a reset. */
const MOST_SPREAD = 600;

/**
 * What to do about an event of the stream for the board of a division (null: everyone's) that is held at `held`, null if
 * none is. `data` is parsed: anything; `after` is the id of the event before it in the stream.
 */
export function decide(held, { id, event, data, after }, division = null) {
  const version = parseVersion(id);
  if (version === null || reaches(held, version)) return IGNORE;
  switch (event) {
    case "delta":
      // Nothing in a delta is relative: whoever is past its beginning may take it all the same.
      return held?.epoch === version.epoch && Number.isSafeInteger(data?.from) && held.number >= data.from
        ? APPLY
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
      return IGNORE;
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

// --- one connection per browser ----------------------------------------------------------------------------------

/**
 * Which of the tabs holds the stream. Pure: it is told of time (seconds) and of messages, and says what to post.
 *
 * - Whoever leads says so every `BEAT`. Whoever hears nothing for `SILENCE` leads, after a random while.
 * - Of two that lead the one with the smaller id goes on; but one that was silent so long has been asleep, and may again.
 */
export class Election {
  static BEAT = 2;
  static SILENCE = 6;
  static OPENING = 0.2;

  constructor(id, random) {
    this.id = id;
    this.random = random;
    this.role = "waiting";
    this.leader = null;
    this.deadline = Infinity;
  }

  start(now) {
    this.deadline = now + Election.OPENING * (1 + this.random());
    return [{ say: "who" }];
  }

  hear({ from, say }, now) {
    if (from === this.id) return [];
    if (say === "who") return this.role === "leader" ? [{ say: "lead" }] : [];
    if (say === "bye" && from === this.leader) {
      this.#follow(null, now + Election.OPENING * this.random());
      return [];
    }
    if (say !== "lead") return [];
    const awake = now < this.deadline + Election.SILENCE - Election.BEAT;
    if (this.role === "leader" && this.id < from && awake) return [{ say: "lead" }];
    this.#follow(from, now + Election.SILENCE + Election.BEAT * this.random());
    return [];
  }

  tick(now) {
    if (now < this.deadline) return [];
    this.role = "leader";
    this.leader = this.id;
    this.deadline = now + Election.BEAT;
    return [{ say: "lead" }];
  }

  leave() {
    const was = this.role;
    this.role = "waiting";
    this.deadline = Infinity;
    return was === "leader" ? [{ say: "bye" }] : [];
  }

  #follow(leader, deadline) {
    this.role = leader === null ? "waiting" : "follower";
    this.leader = leader;
    this.deadline = deadline;
  }
}

// --- the shell ---------------------------------------------------------------------------------------------------

const PATHS = { teams: "api/leaderboard/teams", users: "api/leaderboard" };
const STREAM = "api/scoreboard/stream";

/** Seconds. */
const TICK = 0.25;
const JUMP = 10; // a clock that leaps so far has slept, if
const QUIET = 20; // … the stream was silent for so long: background tabs have slow clocks too
const SILENT = 70; // heartbeats come more often than every 60 s
const ANSWER = 15; // for the head of a response, and for the beginning of the stream
const WHOLE = 120; // for all of a document
const CHECK = 120; // between two looks at whether what is held is still what is served
const OLD = 30; // when the server's own label is worth a word
/** Fetches that may fall short of the version that was told. */
const PATIENCE = 8;

let clock = 0; // as it was last read, in milliseconds
let setBack = 0; // … by so much in all

/** Seconds that go on during sleep, unlike those of performance.now, and never back, unlike those of Date.now. */
function seconds() {
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

class Refused extends Error {
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
class Keeper {
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
    if (!response.ok && response.status !== 304) throw new Refused(response);
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
    this.#keepers = new Map(boards.map((kind) => [kind, new Keeper(kind, at(PATHS[kind], { division_id: division }), mine, this)]));
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
    if (!response.ok) throw new Refused(response);
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
