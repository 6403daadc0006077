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

function checkDocument(kind, { challenges, entries }) {
  const [idField, nameField] = FIELDS[kind];
  for (const challenge of challenges) checkChallenge(challenge);
  const known = new Set(challenges.map(({ id }) => id));
  for (const { [idField]: id, [nameField]: name, score, solves } of entries) {
    checkInteger(id, `the id of ${NOUNS[kind]}`);
    checkInteger(score, "a score");
    checkString(name, `the name of ${NOUNS[kind]}`);
    for (const { challenge_id, solved_at } of solves) {
      if (!known.has(challenge_id)) throw new RangeError("a solve of no challenge");
      checkString(solved_at, "the time of a solve");
    }
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
}

const NOUNS = { teams: "a team", users: "a user" };
const FIELDS = { teams: ["team_id", "team_name"], users: ["user_id", "username"] };

/**
 * The board of the teams or of the users at one version. Immutable: `apply` returns a new board that shares unchanged parts.
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

  /** Throws if a number in `document` is beyond 2^53 - 1, or if it is not a leaderboard. */
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
   * Return the board after `delta`, the data of a `delta` event, which begins at this version or before and ends after it.
   * Throws if it is not a delta or does not fit this board. It reads few solves, since a page with 30,000 entries does this
   * for every solve.
   */
  apply(delta) {
    checkDelta(this.kind, delta);
    const [idField, nameField] = FIELDS[this.kind];
    const challenges = applyToChallenges(this.challenges, delta.challenges ?? {});
    const gone = delta.challenges?.drop ?? [];
    const { names, dropped, cells } = changesByOwner(delta[this.kind] ?? {});
    const scoreOf = scoring(this.challenges, challenges);
    const stay = []; // entries that keep their order among each other
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
  for (const [id, value] of points) {
    if (!now.has(id)) throw new RangeError(`no challenge ${id}`);
    now.set(id, { ...now.get(id), points: value });
  }
  return [...now.values()].sort((a, b) => a.id - b.id);
}

/** The changes by owner. `cells` maps an owner to its new solves by challenge; null stands for a removed solve. */
function changesByOwner({ put = [], drop = [], solves = [], unsolves = [] }) {
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

/** Bounds the challenges with new points for which a score is adjusted; with more it is cheaper to compute every score. */
const MAX_ADJUSTED_CHALLENGES = 4;

/** Return a function that computes the score of an entry with `solves`; its present score counts the challenges `before`. */
function scoring(before, now) {
  const pointsOf = new Map(now.map(({ id, points }) => [id, points]));
  const pointChanges = before
    .map(({ id, points }) => [id, (pointsOf.get(id) ?? points) - points])
    .filter(([, change]) => change !== 0);
  return (entry, solves) => {
    let score = 0;
    if (solves === entry.solves && pointChanges.length <= MAX_ADJUSTED_CHALLENGES) {
      score = entry.score;
      for (const [challenge, change] of pointChanges) if (has(entry, challenge)) score += change;
    } else {
      for (const { challenge_id } of solves) score += pointsOf.get(challenge_id);
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
