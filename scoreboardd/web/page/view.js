/**
 * What the page shows of a board: pure functions of it. They run in the worker, over ten thousand teams; what they give
 * for the page to draw is small.
 *
 * Times are numbers, in milliseconds. Where less than one counts they are compared as the text that they are: without its
 * last letter, RFC 3339 in UTC orders like text.
 */

/** Who moved is shown over the last quarter of the contest, at most so many milliseconds. */
const WINDOW = 60 * 60_000;
const RECENT = 30;
const TOP = 10;

/** Challenges in the order of their columns: by category, as the categories first appear. */
export function columns(challenges) {
  const place = new Map();
  for (const { category } of challenges) if (!place.has(category)) place.set(category, place.size);
  return [...challenges].sort((a, b) => place.get(a.category) - place.get(b.category) || a.id - b.id);
}

/**
 * What is to be known of all solves: how many there are of each challenge (`solves`), when the first and the last were
 * (null if there are none), and the most recent. `before` is the survey of an earlier version of the board, or null: lists
 * of solves are shared from version to version, so that what was found of a list (`lists`, by owner) still holds.
 */
export function survey(board, before = null) {
  const lists = new Map();
  const counts = new Map(before?.solves);
  const count = (list, by) => {
    for (const { challenge_id } of list) counts.set(challenge_id, (counts.get(challenge_id) ?? 0) + by);
  };
  let [first, last, bar] = [Infinity, -Infinity, -Infinity];
  let recent = [];
  for (const entry of board.entries) {
    const id = board.idOf(entry);
    const known = before?.lists.get(id);
    const list = known?.solves === entry.solves ? known : timed(entry.solves);
    if (list !== known) {
      if (known) count(known.solves, -1);
      count(list.solves, 1);
    }
    lists.set(id, list);
    first = lower(first, list.first);
    last = higher(last, list.last);
    if (list.last < bar) continue;
    for (const [index, at] of list.times.entries()) if (at >= bar) recent.push({ entry, solve: entry.solves[index] });
    if (recent.length >= 8 * RECENT) {
      recent = newest(recent);
      bar = Date.parse(recent.at(-1).solve.solved_at);
    }
  }
  for (const [id, { solves }] of before?.lists ?? []) if (!lists.has(id)) count(solves, -1);
  const solves = new Map(board.challenges.map(({ id }) => [id, counts.get(id) ?? 0]));
  if (first === Infinity) [first, last] = [null, null];
  return { lists, solves, first, last, recent: newest(recent) };
}

/** A list of solves, and what is asked of each of them at every version, close together: when it was, and of what. */
function timed(solves) {
  const [times, challenges] = [new Float64Array(solves.length), new Float64Array(solves.length)];
  for (const [index, { solved_at, challenge_id }] of solves.entries()) {
    times[index] = Date.parse(solved_at);
    challenges[index] = challenge_id;
  }
  return { solves, times, challenges, first: times.reduce(lower, Infinity), last: times.reduce(higher, -Infinity) };
}

const lower = (a, b) => (a < b ? a : b);
const higher = (a, b) => (a > b ? a : b);

const newest = (found) => found.sort((a, b) => compareTimes(b.solve.solved_at, a.solve.solved_at)).slice(0, RECENT);

export function compareTimes(a, b) {
  const [x, y] = [a.slice(0, -1), b.slice(0, -1)];
  return x < y ? -1 : x > y ? 1 : 0;
}

/** Since when movement is shown; null if nothing has been solved. */
export function movementSince({ first, last }) {
  return last === null ? null : last - Math.min(WINDOW, (last - first) / 4);
}

/** The rank that each entry had before `since`, at current points, by its place now; 0 for one that had nothing then. */
export function ranksBefore(board, { lists }, since) {
  const worth = new Map(board.challenges.map(({ id, points }) => [id, points]));
  const scores = new Float64Array(board.entries.length);
  const places = [];
  for (const [place, entry] of board.entries.entries()) {
    const { times, challenges, first, last } = lists.get(board.idOf(entry));
    if (first >= since) continue;
    let { score } = entry;
    for (let index = 0; last >= since && index < times.length; index++) {
      if (times[index] >= since) score -= worth.get(challenges[index]);
    }
    scores[place] = score;
    places.push(place);
  }
  places.sort((a, b) => scores[b] - scores[a]); // stable: who leads now led then, at equal scores
  const ranks = new Uint32Array(scores.length);
  for (const [index, place] of places.entries()) ranks[place] = index + 1;
  return ranks;
}

/** The scores of the first ten over time: `points` are [milliseconds, score from then on]. */
export function history(board) {
  const worth = new Map(board.challenges.map(({ id, points }) => [id, points]));
  return board.entries
    .slice(0, TOP)
    .filter((entry) => entry.solves.length)
    .map((entry) => {
      let score = 0;
      const points = [...entry.solves]
        .sort((a, b) => compareTimes(a.solved_at, b.solved_at))
        .map((solve) => [Date.parse(solve.solved_at), (score += worth.get(solve.challenge_id))]);
      return { id: board.idOf(entry), name: board.nameOf(entry), points };
    });
}

/** The most recent solves, newest first. */
export function feed(board, { recent }) {
  const challenges = new Map(board.challenges.map((challenge) => [challenge.id, challenge]));
  return recent.map(({ entry, solve }) => {
    const { title, category, points } = challenges.get(solve.challenge_id);
    const id = board.idOf(entry);
    const key = `${id}:${solve.challenge_id}`;
    return { key, id, name: board.nameOf(entry), title, category, points, at: solve.solved_at, first: solve.is_first_blood };
  });
}

/** The places (from 0) of the entries whose names contain `query`, whatever its case. */
export function matching(board, query) {
  const wanted = fold(query.trim());
  const places = [];
  for (const [place, entry] of board.entries.entries()) {
    if (wanted === "" || fold(board.nameOf(entry)).includes(wanted)) places.push(place);
  }
  return places;
}

const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

/** A line of the table. `marks` has a digit for each column: 0 nothing, 1 solved, 2 first blood. */
export function row(board, place, { columnOf, before }) {
  const entry = board.entries[place];
  const id = board.idOf(entry);
  const marks = new Uint8Array(columnOf.size);
  let last = null;
  for (const solve of entry.solves) {
    marks[columnOf.get(solve.challenge_id)] = solve.is_first_blood ? 2 : 1;
    if (last === null || compareTimes(solve.solved_at, last) > 0) last = solve.solved_at;
  }
  return {
    id,
    rank: place + 1,
    name: board.nameOf(entry),
    score: entry.score,
    solves: entry.solves.length,
    last,
    // Places won; null for one that had nothing yet.
    moved: before[place] > 0 ? before[place] - place - 1 : entry.solves.length ? null : 0,
    marks: marks.join(""),
  };
}
