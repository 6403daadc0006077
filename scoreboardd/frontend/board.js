/** Versions and boards: checking documents, applying deltas. Pure. The counterpart of `client/board.py`. */

/** `<epoch>-<number>`, or null for anything else; a number that JavaScript would round is something else. */
export function parseVersion(text) {
  const match = /^([0-9a-z]{1,32})-([0-9]{1,18})$/.exec(text ?? "");
  const number = Number(match?.[2]);
  return Number.isSafeInteger(number) ? { epoch: match[1], number } : null;
}

export const showVersion = (version) => `${version.epoch}-${version.number}`;

/** True if `held` (null: nothing) includes `version`. Two epochs have no order: the one received last counts. */
export const reaches = (held, version) =>
  held !== null && held.epoch === version.epoch && held.number >= version.number;

/** Check that `value`, which the error calls `what`, is an integer and has not been rounded. */
export function checkInteger(value, what) {
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

function checkAdjustment({ at, points }) {
  checkString(at, "the time of an adjustment");
  checkInteger(points, "the points of an adjustment");
}

function checkDocument(kind, { challenges, order = "static", entries }) {
  const [idField, nameField] = FIELDS[kind];
  if (!ORDERS.includes(order)) throw new RangeError("an unknown order");
  for (const challenge of challenges) checkChallenge(challenge);
  const known = new Set(challenges.map(({ id }) => id));
  for (const { [idField]: id, [nameField]: name, score, solves, adjustments = [] } of entries) {
    checkInteger(id, `the id of ${NOUNS[kind]}`);
    checkInteger(score, "a score");
    checkString(name, `the name of ${NOUNS[kind]}`);
    for (const { challenge_id, solved_at } of solves) {
      if (!known.has(challenge_id)) throw new RangeError("a solve of no challenge");
      checkString(solved_at, "the time of a solve");
    }
    for (const adjustment of adjustments) checkAdjustment(adjustment);
  }
}

/** Check the parts of a delta that concern a board of this kind. `Board.apply` checks whether they fit the board. */
function checkDelta(kind, { from, version, challenges = {}, [kind]: owners = {} }) {
  const [id, name] = [`the id of ${NOUNS[kind]}`, `the name of ${NOUNS[kind]}`];
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
  for (const [owner, adjustments] of owners.adjustments ?? []) {
    checkInteger(owner, id);
    for (const [at, points] of adjustments) checkAdjustment({ at, points });
  }
}

const NOUNS = { teams: "a team", users: "a user" };
const FIELDS = { teams: ["team_id", "team_name"], users: ["user_id", "username"] };
/** How equal scores are ordered; see `board/order.py`. */
const ORDERS = ["static", "last_solve", "last_row"];

/**
 * The board of the teams or of the users at one version. Immutable: `apply` returns a new board that shares unchanged parts.
 * `challenges`, `entries` and `order` are as in the document: challenges by id, entries by rank, solves by challenge.
 */
export class Board {
  #byId = null;

  constructor(kind, version, challenges, entries, order = "static") {
    this.kind = kind;
    this.version = version;
    this.challenges = challenges;
    this.entries = entries;
    this.order = order;
  }

  /** Throws if a number in `document` is beyond 2^53 - 1, or if it is not a leaderboard. */
  static fromDocument(kind, version, document) {
    checkDocument(kind, document);
    return new Board(kind, version, document.challenges, document.entries, document.order);
  }

  get document() {
    const order = this.order === "static" ? {} : { order: this.order };
    return { challenges: this.challenges, ...order, entries: this.entries };
  }

  /** The same board at another version. */
  at(version) {
    return new Board(this.kind, version, this.challenges, this.entries, this.order);
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
   * Return the board after `delta`, the data of a `delta` event, which begins at this version or before and ends after it.
   * Throws if it is not a delta or does not fit this board. It reads few solves, since a page with 30,000 entries does this
   * for every solve.
   */
  apply(delta) {
    checkDelta(this.kind, delta);
    const [idField, nameField] = FIELDS[this.kind];
    const challenges = applyToChallenges(this.challenges, delta.challenges ?? {});
    const gone = delta.challenges?.drop ?? [];
    const { names, dropped, cells, adjusted } = changesByOwner(delta[this.kind] ?? {});
    const { scoreOf, isRetied } = scoring(this.challenges, challenges, this.order);
    const stay = []; // entries that keep their order among each other
    const move = [];
    const take = (entry) => {
      const id = entry[idField];
      const name = names.get(id) ?? entry[nameField];
      const mine = cells.get(id);
      const solved = mine !== undefined || gone.some((challenge) => has(entry, challenge));
      const differs = solved || adjusted.has(id);
      const solves = solved ? solvesAfter(entry, gone, mine) : entry.solves;
      const adjustments = adjusted.get(id) ?? entry.adjustments ?? [];
      const score = scoreOf(entry, solves, adjustments, !differs);
      const moves = score !== entry.score || name !== entry[nameField] || (this.order !== "static" && differs);
      const now = { [idField]: id, [nameField]: name, score, solves, ...(adjustments.length ? { adjustments } : {}) };
      (moves || isRetied(entry) ? move : stay).push(moves || differs ? now : entry);
      names.delete(id);
      cells.delete(id);
      adjusted.delete(id);
    };
    for (const entry of this.entries) if (!dropped.has(entry[idField])) take(entry);
    for (const id of [...names.keys()]) take({ [idField]: id, [nameField]: null, score: 0, solves: [] });
    const unknown = [...cells.keys(), ...adjusted.keys()];
    if (unknown.length) throw new Error(`there are no ${this.kind} ${unknown}`);

    const version = { epoch: this.version.epoch, number: delta.version };
    const entries = merged(stay, move, comparison(this.kind, this.order, challenges));
    return new Board(this.kind, version, challenges, entries, this.order);
  }
}

/** Return a function that compares two entries by the order of the document. */
function comparison(kind, order, challenges) {
  const [idField, nameField] = FIELDS[kind];
  const byName = kind === "teams" && order !== "last_row";
  const byNameAndId = (a, b) =>
    (byName ? compareBytes(a[nameField], b[nameField]) : 0) || a[idField] - b[idField];
  if (order === "static") return (a, b) => b.score - a.score || byNameAndId(a, b);
  const last = lastRows(order, challenges);
  return (a, b) => {
    if (a.score !== b.score) return b.score - a.score;
    const [x, y] = [last(a), last(b)];
    if (x.at !== y.at) return x.at < y.at ? -1 : 1;
    return x.sequence - y.sequence || byNameAndId(a, b);
  };
}

/** Return a function that finds what breaks a tie: the time of an entry's last row that counts, and the highest number. */
function lastRows(order, challenges) {
  const counts = new Set(challenges.filter(({ points }) => points !== 0).map(({ id }) => id));
  const known = new WeakMap();
  const find = ({ solves, adjustments = [] }) => {
    let [at, highest] = ["", -(2 ** 62)];
    const take = (time, sequence = 0) => {
      const sortable = time.slice(0, -1); // without its Z, times sort as text
      if (sortable > at) at = sortable;
      highest = Math.max(highest, sequence);
    };
    for (const { challenge_id, solved_at, sequence } of solves) if (counts.has(challenge_id)) take(solved_at, sequence);
    if (order === "last_row") for (const row of adjustments) if (row.points !== 0) take(row.at, row.sequence);
    return { at, sequence: order === "last_row" ? highest : 0 };
  };
  return (entry) => known.get(entry) ?? known.set(entry, find(entry)).get(entry);
}

function applyToChallenges(challenges, { put = [], drop = [], points = [] }) {
  if (!(put.length || drop.length || points.length)) return challenges;
  const now = new Map(challenges.map((challenge) => [challenge.id, challenge]));
  for (const id of drop) now.delete(id);
  for (const { id, title, category, points } of put) now.set(id, { id, title, category, points });
  for (const [id, value] of points) {
    if (!now.has(id)) throw new RangeError(`no challenge ${id}`);
    now.set(id, { ...now.get(id), points: value });
  }
  return [...now.values()].sort((a, b) => a.id - b.id);
}

/** The changes by owner. `cells` maps an owner to its new solves by challenge; null stands for a removed solve. */
function changesByOwner({ put = [], drop = [], solves = [], unsolves = [], adjustments = [] }) {
  const cells = new Map();
  const of = (id) => cells.get(id) ?? cells.set(id, new Map()).get(id);
  for (const [id, challenge] of unsolves) of(id).set(challenge, null);
  for (const [id, challenge, at, firstBlood, ...sequence] of solves) {
    const solve = { challenge_id: challenge, solved_at: at, is_first_blood: firstBlood === 1, ...numbered(sequence) };
    of(id).set(challenge, solve);
  }
  const given = (rows) => rows.map(([at, points, ...sequence]) => ({ at, points, ...numbered(sequence) }));
  const adjusted = new Map(adjustments.map(([id, rows]) => [id, given(rows)]));
  return { names: new Map(put), dropped: new Set(drop), cells, adjusted };
}

const numbered = ([sequence]) => (sequence === undefined ? {} : { sequence });

function solvesAfter({ solves }, gone, mine = new Map()) {
  const now = new Map(solves.map((solve) => [solve.challenge_id, solve]));
  for (const challenge of gone) now.delete(challenge);
  for (const [challenge, solve] of mine) {
    if (solve === null) now.delete(challenge);
    else now.set(challenge, solve);
  }
  return [...now.values()].sort((a, b) => a.challenge_id - b.challenge_id);
}

/** Bounds the challenges with new points for which a score is adjusted; with more it is cheaper to compute every score. */
const MAX_ADJUSTED_CHALLENGES = 4;

/**
 * `scoreOf` computes the score of an entry with `solves` and `adjustments`; its present score counts the challenges `before`.
 * `isRetied` says whether what breaks a tie may differ for an entry although its own rows do not.
 */
function scoring(before, now, order) {
  const pointsOf = new Map(now.map(({ id, points }) => [id, points]));
  const pointChanges = before
    .map(({ id, points }) => [id, (pointsOf.get(id) ?? points) - points])
    .filter(([, change]) => change !== 0);
  const flipped = before.filter(({ id, points }) => (points === 0) !== ((pointsOf.get(id) ?? points) === 0));
  const isRetied = (entry) => order !== "static" && flipped.some(({ id }) => has(entry, id));
  const scoreOf = (entry, solves, adjustments, isSame) => {
    let score = 0;
    if (isSame && pointChanges.length <= MAX_ADJUSTED_CHALLENGES) {
      score = entry.score;
      for (const [challenge, change] of pointChanges) if (has(entry, challenge)) score += change;
    } else {
      for (const { challenge_id } of solves) score += pointsOf.get(challenge_id);
      for (const { points } of adjustments) score += points;
    }
    if (Number.isNaN(score)) throw new RangeError("a solve of no challenge");
    checkInteger(score, "a score");
    return score;
  };
  return { scoreOf, isRetied };
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

/** All entries of `sorted`, which are in order, and of `others`, in order. */
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

/** Compare as the UTF-8 bytes do, which is by code point; JavaScript itself compares by UTF-16 unit. */
export function compareBytes(a, b) {
  const shorter = Math.min(a.length, b.length);
  for (let i = 0; i < shorter; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) return orderOfUnit(x) - orderOfUnit(y);
  }
  return a.length - b.length;
}

/** Surrogates encode the code points above all others. */
const orderOfUnit = (unit) => (unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit);
