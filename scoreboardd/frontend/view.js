/**
 * What the page shows of a board: pure functions of it. They run in the worker, over ten thousand teams; what they give
 * for the page to draw is small.
 *
 * Times are numbers, in milliseconds. Where less than one counts they are compared as the text that they are: without its
 * last letter, RFC 3339 in UTC orders like text.
 */

const HOUR = 60 * 60_000;
/** Who moved is shown over the last quarter of the contest, at most so many milliseconds. */
const WINDOW = HOUR;
/** Hours. A solve is plausible if it is no further than this from most others, or from now. It spans a night and a day. */
const NEAR = 36;
/** Of those dated ahead of now; clocks of those who look may be slow, and zones mistaken. */
const NEAR_AHEAD = 6;
/** The share of the solves, at each end, that are not "most" solves. */
const TRIMMED = 0.05;
/** No contest is older, and none is later than now by so much: clocks that are not set begin in 1970 or 1980. */
const OLDEST = Date.UTC(2000, 0);
const AHEAD = 30 * 24 * HOUR;
const RECENT = 30;
const TOP = 10;

/** Challenges in the order of their columns: by category, as the categories first appear. */
export function columns(challenges) {
  const place = new Map();
  for (const { category } of challenges) if (!place.has(category)) place.set(category, place.size);
  return [...challenges].sort((a, b) => place.get(a.category) - place.get(b.category) || a.id - b.id);
}

/**
 * The hours of the first and of the last solve that are plausible, given how many solves there are in each hour since 1970;
 * null without any.
 *
 * Most solves, and as much time again on either side, are; so are those shortly before now. One that a wrong clock dated decades away
 * is not, lest the whole contest be a hair at the edge of a chart.
 */
export function plausible(hours, now) {
  const all = [...hours].sort(([a], [b]) => a - b);
  const likely = all.filter(([hour]) => hour * HOUR >= OLDEST && hour * HOUR <= now + AHEAD);
  const some = likely.length ? likely : all;
  const total = some.reduce((sum, [, solves]) => sum + solves, 0);
  const trimmed = total < 3 ? 0 : Math.max(1, Math.floor(TRIMMED * total));
  const [low, high] = [hourOf(some, trimmed), hourOf(some.toReversed(), trimmed)];
  const age = (hour) => now / HOUR - hour;
  const reach = (hour) => Math.max(high - low, age(hour) < 0 ? NEAR_AHEAD : NEAR);
  const fits = ([hour]) =>
    (hour >= low - reach(hour) && hour <= high + reach(hour)) || (age(hour) >= 0 && age(hour) <= NEAR);
  const first = some.find(fits);
  return first === undefined ? null : { first: first[0], last: some.findLast(fits)[0] };
}

/** The hour of the solve that so many others come before. */
function hourOf(hours, others) {
  return hours.find(([, solves]) => (others -= solves) < 0)?.[0];
}

/**
 * Summarize all solves: how many each challenge has (`solves`), when the first and the last plausible ones were (null if there
 * are none), how many are not plausible (`outliers`), the last that is not after `now` (`latest`), and the most recent, with
 * outliers after all others. `before` is the summary of an earlier version of the board, or null. Versions share lists of
 * solves, so that the facts of a shared list (`lists`, by owner) and the solves in each hour (`hours`) are reused.
 */
export function summarize(board, before = null, now = Date.now()) {
  const lists = new Map();
  const counts = new Map(before?.solves);
  const hours = new Map(before?.hours);
  const count = ({ times, challenges }, by) => {
    for (const challenge of challenges) counts.set(challenge, (counts.get(challenge) ?? 0) + by);
    for (const at of times) hours.set(Math.floor(at / HOUR), (hours.get(Math.floor(at / HOUR)) ?? 0) + by);
  };
  for (const entry of board.entries) {
    const id = board.idOf(entry);
    const known = before?.lists.get(id);
    const list = known?.solves === entry.solves ? known : timed(entry.solves);
    if (list !== known) {
      if (known) count(known, -1);
      count(list, 1);
    }
    lists.set(id, list);
  }
  for (const [id, list] of before?.lists ?? []) if (!lists.has(id)) count(list, -1);
  for (const [hour, number] of hours) if (number === 0) hours.delete(hour);
  const solves = new Map(board.challenges.map(({ id }) => [id, counts.get(id) ?? 0]));
  const range = plausible(hours, now);
  if (range === null) return { lists, solves, hours, first: null, last: null, latest: null, outliers: 0, recent: [] };
  const [from, to] = [range.first * HOUR, (range.last + 1) * HOUR - 1];
  const [first, last] = [firstFrom(lists, from), lastUntil(lists, to)];
  const past = lastUntil(lists, Math.min(last, now));
  const latest = past < first ? last : past;
  let outliers = 0;
  for (const [hour, number] of hours) if (hour < range.first || hour > range.last) outliers += number;
  return { lists, solves, hours, first, last, latest, outliers, recent: recentSolves(board, lists, first, last) };
}

function firstFrom(lists, from) {
  let found = Infinity;
  for (const { times, first } of lists.values()) {
    if (first >= from) found = lower(found, first);
    else for (const at of times) if (at >= from) found = lower(found, at);
  }
  return found;
}

function lastUntil(lists, to) {
  let found = -Infinity;
  for (const { times, last } of lists.values()) {
    if (last <= to) found = higher(found, last);
    else for (const at of times) if (at <= to) found = higher(found, at);
  }
  return found;
}

function recentSolves(board, lists, from, to) {
  let recent = [];
  let bar = from;
  const outliers = [];
  for (const entry of board.entries) {
    const list = lists.get(board.idOf(entry));
    if (list.last < bar && list.first >= from) continue;
    for (const [index, at] of list.times.entries()) {
      if (at >= bar && at <= to) recent.push({ entry, solve: entry.solves[index] });
      else if ((at < from || at > to) && outliers.length < RECENT) outliers.push({ entry, solve: entry.solves[index] });
    }
    if (recent.length >= 8 * RECENT) {
      recent = newest(recent);
      bar = Date.parse(recent.at(-1).solve.solved_at);
    }
  }
  return [...newest(recent), ...newest(outliers)].slice(0, RECENT);
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

/**
 * Since when movement is shown; null if nothing has been solved. It follows the solves that come in: one that is dated ahead
 * of them does not keep their movement from being shown.
 */
export function movementSince({ first, latest }) {
  return latest === null ? null : latest - Math.min(WINDOW, (latest - first) / 4);
}

/**
 * The rank that each entry had before `since`, at current points, by its place now; 0 for one that had nothing then. Of an
 * outlier nobody knows when it was: it does not move anybody.
 */
export function ranksBefore(board, { lists, last: end }, since) {
  const worth = new Map(board.challenges.map(({ id, points }) => [id, points]));
  const scores = new Float64Array(board.entries.length);
  const places = [];
  for (const [place, entry] of board.entries.entries()) {
    const { times, challenges, first, last } = lists.get(board.idOf(entry));
    if (first >= since && !(last > end)) continue;
    let { score } = entry;
    for (let index = 0; last >= since && index < times.length; index++) {
      if (times[index] >= since && times[index] <= end) score -= worth.get(challenges[index]);
    }
    for (const { at, points } of entry.adjustments ?? []) {
      const time = Date.parse(at);
      if (time >= since && time <= end) score -= points;
    }
    scores[place] = score;
    places.push(place);
  }
  places.sort((a, b) => scores[b] - scores[a]); // stable: who leads now led then, at equal scores
  const ranks = new Uint32Array(scores.length);
  for (const [index, place] of places.entries()) ranks[place] = index + 1;
  return ranks;
}

/**
 * The scores of the first ten over time: `points` are [milliseconds, score from then on]. Outliers stand at the nearer end of
 * what is plausible; `outliers` has the true time of each, and the score from then on.
 */
export function history(board, { first, last }) {
  const worth = new Map(board.challenges.map(({ id, points }) => [id, points]));
  return board.entries
    .slice(0, TOP)
    .filter((entry) => entry.solves.length)
    .map((entry) => {
      let score = 0;
      const outliers = [];
      const solved = entry.solves.map(({ solved_at, challenge_id }) => ({ time: solved_at, gain: worth.get(challenge_id), solve: true }));
      const adjusted = (entry.adjustments ?? []).map(({ at, points: gain }) => ({ time: at, gain }));
      const points = [...solved, ...adjusted]
        .sort((a, b) => compareTimes(a.time, b.time))
        .map(({ time, gain, solve = false }) => {
          const at = Date.parse(time);
          const drawn = Math.min(last, Math.max(first, at));
          score += gain;
          // The time shown is that of the solves: an award may well come after the last of them.
          if (drawn !== at && solve) outliers.push({ at, score, early: at < first });
          return [drawn, score];
        });
      return { id: board.idOf(entry), name: board.nameOf(entry), points, outliers };
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
