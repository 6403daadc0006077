/**
 * The expensive work on the board, off the page's thread: documents, deltas, search, history. The page sends what it shows
 * (`look`) and receives what to draw. Every message has a `type`.
 */

import { Scoreboard, showVersion } from "./scoreboard.js";
import { columns, feed, history, matching, movementSince, ranksBefore, row, summarize } from "./view.js";

/** What the page looks at. */
let look = { root: "/", kind: "teams", division: null, query: "", first: 0, last: 40, pin: null };
let scoreboard = null;
/** Computed once for each version of the board. */
let board = null;
let summary = null;
let drawn = null;
/** Computed once for each query. */
let places = [];
/** Solves that the page has received; null before the first board. */
let known = null;

function follow() {
  scoreboard?.close();
  board = summary = known = null;
  scoreboard = new Scoreboard({ url: look.root, boards: [look.kind], division: look.division });
  scoreboard.addEventListener("board", showSoon);
  scoreboard.addEventListener("state", ({ detail }) => detail.status !== "closed" && postMessage({ type: "state", ...detail }));
  scoreboard.start();
}

/** Of several versions that arrive at once, as after a sleep, only the last is drawn. */
let soon = null;
function showSoon() {
  soon ??= setTimeout(show);
}

function show() {
  soon = null;
  board = scoreboard.board(look.kind);
  if (board === null) return; // the page shows another board by now
  summary = summarize(board, summary);
  const ordered = columns(board.challenges);
  const since = movementSince(summary);
  const before = ranksBefore(board, summary, since);
  drawn = { columnOf: new Map(ordered.map(({ id }, index) => [id, index])), before };
  places = matching(board, look.query);
  const recent = feed(board, summary);
  const fresh = known === null ? [] : recent.filter(({ key }) => !known.has(key)).map(({ key }) => key);
  known = new Set(recent.map(({ key }) => key));
  postMessage({
    type: "board",
    kind: board.kind,
    version: showVersion(board.version),
    challenges: ordered.map((challenge) => ({ ...challenge, solves: summary.solves.get(challenge.id) })),
    owners: board.entries.length,
    solves: [...summary.solves.values()].reduce((a, b) => a + b, 0),
    best: board.entries[0]?.score ?? 0,
    first: summary.first,
    last: summary.last,
    since,
    outliers: summary.outliers,
    history: history(board, summary),
    feed: recent,
    fresh,
    ...window(),
  });
}

/** The rows that the page shows. */
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
    postMessage({ type: "rows", kind: board.kind, ...window() });
  },
  wake: () => scoreboard?.wake(),
  leave: () => scoreboard?.close(),
};

onmessage = ({ data: { type, ...rest } }) => commands[type](rest);
