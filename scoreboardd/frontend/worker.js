/**
 * Everything about the board that takes time, off the page's thread: the documents, deltas, search, history.
 * The page says what it looks at (`look`), and is told what is there.
 */

import { Scoreboard, showVersion } from "./scoreboard.js";
import { columns, feed, history, matching, movementSince, ranksBefore, row, survey } from "./view.js";

/** What the page looks at. */
let look = { root: "/", kind: "teams", division: null, query: "", first: 0, last: 40, pin: null };
let scoreboard = null;
/** What is worked out once for each version of the board, one from the other. */
let board = null;
let surveyed = null;
let drawn = null;
/** … and once for each query. */
let places = [];
/** Solves that the page has been told of; null before the first. */
let known = null;

function follow() {
  scoreboard?.close();
  board = surveyed = known = null;
  scoreboard = new Scoreboard({ url: look.root, boards: [look.kind], division: look.division });
  scoreboard.addEventListener("board", showSoon);
  scoreboard.addEventListener("state", ({ detail }) => detail.status !== "closed" && postMessage({ say: "state", ...detail }));
  scoreboard.start();
}

/** Of several versions that come at once, as after a sleep, only the last is worth the work. */
let soon = null;
function showSoon() {
  soon ??= setTimeout(show);
}

function show() {
  soon = null;
  board = scoreboard.board(look.kind);
  if (board === null) return; // somebody looks at another one meanwhile
  surveyed = survey(board, surveyed);
  const ordered = columns(board.challenges);
  const since = movementSince(surveyed);
  const before = ranksBefore(board, surveyed, since);
  drawn = { columnOf: new Map(ordered.map(({ id }, index) => [id, index])), before };
  places = matching(board, look.query);
  const recent = feed(board, surveyed);
  const fresh = known === null ? [] : recent.filter(({ key }) => !known.has(key)).map(({ key }) => key);
  known = new Set(recent.map(({ key }) => key));
  postMessage({
    say: "board",
    kind: board.kind,
    version: showVersion(board.version),
    challenges: ordered.map((challenge) => ({ ...challenge, solves: surveyed.solves.get(challenge.id) })),
    owners: board.entries.length,
    solves: [...surveyed.solves.values()].reduce((a, b) => a + b, 0),
    best: board.entries[0]?.score ?? 0,
    first: surveyed.first,
    last: surveyed.last,
    since,
    outliers: surveyed.outliers,
    history: history(board, surveyed),
    feed: recent,
    fresh,
    ...window(),
  });
}

/** The rows that the page looks at. */
function window() {
  const [first, last] = [Math.max(0, look.first), Math.min(places.length, look.last)];
  const pinned = look.pin === null ? -1 : board.entries.findIndex((entry) => board.idOf(entry) === look.pin);
  return {
    count: places.length,
    from: first,
    rows: places.slice(first, last).map((place) => row(board, place, drawn)),
    pinned: pinned < 0 ? null : row(board, pinned, drawn),
  };
}

const commands = {
  look(wanted) {
    const before = look;
    look = { ...look, ...wanted };
    if (scoreboard === null || ["root", "kind", "division"].some((name) => before[name] !== look[name])) return follow();
    if (board === null) return;
    if (before.query !== look.query) places = matching(board, look.query);
    postMessage({ say: "rows", kind: board.kind, ...window() });
  },
  wake: () => scoreboard?.wake(),
  leave: () => scoreboard?.close(),
};

onmessage = ({ data: { do: command, ...rest } }) => commands[command](rest);
