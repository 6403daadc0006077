/**
 * What the page shows of a board: pure functions of it. They run in the worker, over ten thousand teams; what they give
 * for the page to draw is small.
 *
 * Times are compared as the text that they are: without its last letter, RFC 3339 in UTC orders like text.
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

/** In one pass over all solves: how many there are of each challenge, the first and the last of all, the most recent. */
export function survey(board) {
  const solves = new Map(board.challenges.map(({ id }) => [id, 0]));
  let first = null;
  let recent = [];
  let bar = "";
  for (const entry of board.entries) {
    for (const solve of entry.solves) {
      solves.set(solve.challenge_id, solves.get(solve.challenge_id) + 1);
      if (first === null || solve.solved_at < first) first = solve.solved_at;
      if (solve.solved_at < bar) continue;
      recent.push({ entry, solve });
      if (recent.length >= 8 * RECENT) {
        recent = newest(recent);
        bar = recent.at(-1).solve.solved_at.slice(0, -1);
      }
    }
  }
  recent = newest(recent);
  return { solves, first, last: recent[0]?.solve.solved_at ?? null, recent };
}

const newest = (found) => found.sort((a, b) => compareTimes(b.solve.solved_at, a.solve.solved_at)).slice(0, RECENT);

export function compareTimes(a, b) {
  const [x, y] = [a.slice(0, -1), b.slice(0, -1)];
  return x < y ? -1 : x > y ? 1 : 0;
}

/** Since when movement is shown, as text to the second; null if nothing has been solved. */
export function movementSince({ first, last }) {
  if (last === null) return null;
  const [begin, end] = [Date.parse(first), Date.parse(last)];
  return new Date(end - Math.min(WINDOW, (end - begin) / 4)).toISOString().slice(0, 19);
}

/** The place of each owner by what it had before `since`, at current points; owners with nothing then have none. */
export function placesBefore(board, since) {
  const worth = new Map(board.challenges.map(({ id, points }) => [id, points]));
  const scored = [];
  for (const entry of board.entries) {
    let score = 0;
    let any = false;
    for (const solve of entry.solves) {
      if (solve.solved_at >= since) continue;
      score += worth.get(solve.challenge_id);
      any = true;
    }
    if (any) scored.push({ id: board.idOf(entry), score });
  }
  scored.sort((a, b) => b.score - a.score); // stable: who leads now led then, at equal scores
  return new Map(scored.map(({ id }, index) => [id, index + 1]));
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
export function row(board, place, { columnOf, before, since }) {
  const entry = board.entries[place];
  const id = board.idOf(entry);
  const marks = new Uint8Array(columnOf.size);
  let last = null;
  for (const solve of entry.solves) {
    marks[columnOf.get(solve.challenge_id)] = solve.is_first_blood ? 2 : 1;
    if (last === null || compareTimes(solve.solved_at, last) > 0) last = solve.solved_at;
  }
  const was = before.get(id);
  return {
    id,
    rank: place + 1,
    name: board.nameOf(entry),
    score: entry.score,
    solves: entry.solves.length,
    last,
    // Places won; null for one that had nothing yet.
    moved: was === undefined ? (entry.solves.length && since !== null ? null : 0) : was - place - 1,
    marks: marks.join(""),
  };
}
