// What the page shows of a board, under Node. VECTORS as for scoreboard.test.js.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Board } from "../../scoreboardd/frontend/scoreboard.js";
import {
  columns,
  compareTimes,
  feed,
  history,
  matching,
  movementSince,
  plausible,
  ranksBefore,
  row,
  summarize,
} from "../../scoreboardd/frontend/view.js";

const at = (minute, rest = "") => `2026-02-27T18:${String(minute).padStart(2, "0")}:00${rest}Z`;
const CHALLENGES = [
  { id: 1, title: "one", category: "web", points: 100 },
  { id: 2, title: "two", category: "pwn", points: 300 },
  { id: 3, title: "three", category: "web", points: 50 },
];

/** `teams` are [name, [challenge, solved at, first blood]…], in the order of the document. */
function board(...teams) {
  const worth = new Map(CHALLENGES.map(({ id, points }) => [id, points]));
  const entries = teams.map(([name, ...solves], index) => ({
    team_id: index + 1,
    team_name: name,
    score: solves.reduce((sum, [challenge]) => sum + worth.get(challenge), 0),
    solves: solves.map(([challenge_id, solved_at, is_first_blood = false]) => ({ challenge_id, solved_at, is_first_blood })),
  }));
  return Board.fromDocument("teams", { epoch: "a", number: 1 }, { challenges: CHALLENGES, entries });
}

const EVENT = board(
  ["Ärzte", [1, at(0), true], [2, at(40)]],
  ["ab", [1, at(10)], [2, at(30), true]],
  ["b", [1, at(20)]],
  ["<b>", [3, at(39), true]],
  ["nobody"],
);

const rowOf = (place) => {
  const summary = summarize(EVENT);
  const columnOf = new Map(columns(CHALLENGES).map(({ id }, index) => [id, index]));
  return row(EVENT, place, { columnOf, before: ranksBefore(EVENT, summary, movementSince(summary)) });
};

test("categories stand together, in the order in which they first appear", () => {
  assert.deepEqual(columns(CHALLENGES).map(({ id }) => id), [1, 3, 2]);
});

test("times order to the microsecond, with or without a fraction", () => {
  const times = [at(1), at(1, ".000001"), at(1, ".1"), at(1, ".12"), at(2)];
  assert.deepEqual([...times].reverse().sort(compareTimes), times);
});

test("a summary counts, and finds the newest solves, newest first", () => {
  const { solves, first, last, recent } = summarize(EVENT);
  assert.deepEqual([...solves], [[1, 3], [2, 2], [3, 1]]);
  assert.deepEqual([first, last], [at(0), at(40)].map(Date.parse));
  assert.deepEqual(recent.map(({ solve }) => solve.solved_at), [40, 39, 30, 20, 10, 0].map((minute) => at(minute)));
});

test("of very many solves it finds the newest, too", () => {
  const minutes = [...Array(60).keys()];
  const teams = Array.from({ length: 40 }, (_, team) => [`team ${team}`, [1, at(minutes[(team * 37) % 60], `.${team + 100}`)]]);
  const all = teams.map(([, [, when]]) => when).sort(compareTimes).reverse();
  const { recent } = summarize(board(...[...teams, ...teams, ...teams, ...teams, ...teams, ...teams, ...teams]));
  assert.deepEqual(new Set(recent.map(({ solve }) => solve.solved_at)), new Set(all.slice(0, 5)));
});

test("a summary that begins with the one before finds what one from scratch does", () => {
  for (const { steps, ...documents } of JSON.parse(readFileSync(process.env.VECTORS, "utf8"))) {
    for (const kind of ["users", "teams"]) {
      for (const delta of steps.map((step) => JSON.parse(step))) {
        const document = JSON.parse(documents[kind][delta.from]);
        const before = Board.fromDocument(kind, { epoch: "7f3a", number: delta.from }, document);
        const after = before.apply(delta);
        assert.deepEqual(summarize(after, summarize(before)), summarize(after));
      }
    }
  }
});

test("who moved is told over the last quarter of what was played", () => {
  assert.equal(movementSince(summarize(EVENT)), Date.parse("2026-02-27T18:30:00Z"));
  const day = summarize(board(["a", [1, "2026-02-27T00:00:00Z"], [2, at(0)]]));
  assert.equal(movementSince(day), Date.parse("2026-02-27T17:00:00Z"));
  assert.equal(movementSince(summarize(board(["nobody"]))), null);
});

const NOW = Date.parse("2026-11-27T12:00:00Z"); // long after the event
const hours = (count, from = at(0)) => Date.parse(from) + count * 3_600_000;
/** The first and the last of the times in the hours that are plausible. */
function windowOf(times, now = NOW) {
  const hours = new Map();
  for (const at of times) hours.set(Math.floor(at / 3_600_000), (hours.get(Math.floor(at / 3_600_000)) ?? 0) + 1);
  const found = plausible(hours, now);
  const inside = times.filter((at) => at / 3_600_000 >= found?.first && at / 3_600_000 < found?.last + 1);
  return found && { first: Math.min(...inside), last: Math.max(...inside) };
}
const HOUR_OF_PLAY = [0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 1].map((hour) => hours(hour));
const WHOLE = { first: hours(0), last: hours(1) };

test("one solve that a wrong clock dated far away does not stretch the time shown", () => {
  const wrong = ["1970-01-01T00:00:00Z", "1980-01-06T00:00:00Z", "2016-02-27T18:00:00Z", "2025-02-27T18:00:00Z",
    "2026-02-17T18:00:00Z", "2026-03-08T18:00:00Z", "2027-02-27T18:00:00Z", "2038-01-19T03:14:07Z", "2099-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z"];
  for (const date of wrong) {
    assert.deepEqual(windowOf([...HOUR_OF_PLAY, Date.parse(date)]), WHOLE, date);
    assert.deepEqual(windowOf([...HOUR_OF_PLAY.slice(0, 2), Date.parse(date)]), { first: hours(0), last: hours(0.1) }, date);
  }
  assert.deepEqual(windowOf([...HOUR_OF_PLAY, ...wrong.slice(0, 2), ...wrong.slice(-2)].map((each) => +new Date(each))), WHOLE);
  for (const date of [wrong[0], wrong.at(-2)]) {
    assert.deepEqual(windowOf([hours(0), Date.parse(date)]), { first: hours(0), last: hours(0) }, "of two as well");
  }
});

test("a solve that is dated tomorrow does not stretch the time shown today", () => {
  for (const ahead of [8, 24, 30]) {
    assert.deepEqual(windowOf([...HOUR_OF_PLAY, hours(ahead)], hours(1)), WHOLE);
    assert.equal(windowOf([...HOUR_OF_PLAY, hours(ahead)], hours(ahead)).last, hours(ahead), "when it is no longer ahead");
  }
  assert.equal(windowOf([...HOUR_OF_PLAY, hours(5)], hours(1)).last, hours(5));
});

test("many that are dated in 1970 or 2099 do not, either", () => {
  for (const date of ["1970-01-01T00:00:00Z", "2099-01-01T00:00:00Z"]) {
    assert.deepEqual(windowOf([...HOUR_OF_PLAY, ...Array(20).fill(Date.parse(date))]), WHOLE);
  }
});

test("one solve, and several at the same time, are the time shown", () => {
  for (const times of [[hours(0)], Array(9).fill(hours(0))]) {
    assert.deepEqual(windowOf(times), { first: hours(0), last: hours(0) });
  }
  assert.equal(windowOf([]), null);
});

test("no day of a contest is lost, however few solves it has yet", () => {
  const day = (number, solves) => Array.from({ length: solves }, (_, index) => hours(24 * number + (9 * index) / solves));
  for (const days of [[400, 400], [400, 1], [1, 400], [400, 3, 400], [30, 0, 0, 0, 30], [9, 0, 0, 0, 0, 0, 3], [2, 0, 0, 0, 2]]) {
    const times = days.flatMap((solves, number) => day(number, solves));
    assert.deepEqual(windowOf(times), { first: Math.min(...times), last: Math.max(...times) }, days.join());
  }
  const second = hours(24 * 7); // a week later, and it has just begun
  assert.equal(windowOf([...day(0, 400), second], second + 1000).last, second);
  assert.equal(windowOf([...day(0, 400), second]).last, day(0, 400).at(-1), "seen long afterwards it is an outlier");
});

test("a viewer with a wrong clock sees the whole contest", () => {
  for (const now of [0, Date.parse("2015-01-01T00:00:00Z"), Date.parse("2099-01-01T00:00:00Z")]) {
    assert.deepEqual(windowOf(HOUR_OF_PLAY, now), WHOLE);
  }
});

const WRONG = [
  ["early", [1, "1970-01-01T00:00:00Z"], [2, at(20)]],
  ["late", [1, at(10)], [2, "2099-01-01T00:00:00Z"]],
  ["only late", [2, "2099-01-01T00:00:00Z"]],
  ["a", [1, at(0)]],
  ["b", [1, at(40)]],
];

test("outliers are counted, and come after what just happened", () => {
  const summary = summarize(board(...WRONG), null, NOW);
  assert.deepEqual([summary.first, summary.last, summary.outliers], [Date.parse(at(0)), Date.parse(at(40)), 3]);
  assert.deepEqual(summary.recent.map(({ solve }) => solve.solved_at), [
    at(40), at(20), at(10), at(0), "2099-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "1970-01-01T00:00:00Z",
  ]);
});

test("outliers stand at the edge of the history, and are told of", () => {
  const made = board(...WRONG);
  const [early, late] = history(made, summarize(made, null, NOW));
  assert.deepEqual(early.points, [[Date.parse(at(0)), 100], [Date.parse(at(20)), 400]]);
  assert.deepEqual(early.outliers, [{ at: 0, score: 100, early: true }]);
  assert.deepEqual(late.points, [[Date.parse(at(10)), 100], [Date.parse(at(40)), 400]]);
  assert.deepEqual(late.outliers, [{ at: Date.parse("2099-01-01T00:00:00Z"), score: 400, early: false }]);
});

test("movement goes on after a solve that is dated ahead of all others", () => {
  const overtaken = [["late", [2, at(40)], [1, at(5)]], ["early", [1, at(0)], [3, at(1)]]];
  const movement = (teams, now) => {
    const made = board(...teams);
    const summary = summarize(made, null, now);
    const before = ranksBefore(made, summary, movementSince(summary));
    const columnOf = new Map(CHALLENGES.map(({ id }, index) => [id, index]));
    return [0, 1].map((place) => row(made, place, { columnOf, before }).moved);
  };
  const now = Date.parse(at(41));
  assert.deepEqual(movement(overtaken, now), [1, -1]);
  for (const ahead of ["2099-01-01T00:00:00Z", "2026-02-27T23:00:00Z", "2026-02-28T03:40:00Z", "1970-01-01T00:00:00Z"]) {
    assert.deepEqual(movement([...overtaken, ["wrong", [3, ahead]]], now), [1, -1], ahead);
  }
});

test("all times may be ahead of the viewer's clock", () => {
  const summary = summarize(EVENT, null, Date.parse("2026-02-27T12:00:00Z"));
  assert.equal(movementSince(summary), Date.parse("2026-02-27T18:30:00Z"));
});

test("the time shown is found for ten thousand teams", () => {
  const teams = Array.from({ length: 10_000 }, (_, team) => [
    `team ${team}`,
    [1, team % 100 ? at(team % 60) : "2099-01-01T00:00:00Z"],
    [2, new Date(hours(20 + (team % 7))).toISOString()],
  ]);
  const made = board(...teams);
  const summary = summarize(made, null, NOW);
  assert.deepEqual([summary.first, summary.last, summary.outliers], [Date.parse(at(0)), hours(26), 100]);
  assert.equal(summary.recent.length, 30);
});

test("a row has its place, what it won and lost, and a mark for each column", () => {
  assert.deepEqual(rowOf(0), {
    id: 1, rank: 1, name: "Ärzte", score: 400, solves: 2, last: at(40), moved: 0, marks: "201",
  });
  assert.deepEqual(rowOf(1).marks, "102");
  assert.equal(rowOf(2).moved, 0);
  assert.equal(rowOf(3).moved, null, "it had nothing yet");
  assert.equal(rowOf(4).moved, 0, "it has nothing still");
});

test("who was overtaken fell", () => {
  const overtaken = board(["late", [2, at(40)], [1, at(5)]], ["early", [1, at(0)], [3, at(1)]]);
  const before = ranksBefore(overtaken, summarize(overtaken), Date.parse("2026-02-27T18:30:00Z"));
  const columnOf = new Map(CHALLENGES.map(({ id }, index) => [id, index]));
  const moved = [0, 1].map((place) => row(overtaken, place, { columnOf, before }).moved);
  assert.deepEqual(moved, [1, -1]);
});

test("the history adds up current points", () => {
  assert.deepEqual(history(EVENT, summarize(EVENT)).map(({ name, points }) => [name, points.map(([, score]) => score)]), [
    ["Ärzte", [100, 400]],
    ["ab", [100, 400]],
    ["b", [100]],
    ["<b>", [50]],
  ]);
});

test("the feed names who and what", () => {
  const [newest] = feed(EVENT, summarize(EVENT));
  assert.deepEqual(newest, {
    key: "1:2", id: 1, name: "Ärzte", title: "two", category: "pwn", points: 300, at: at(40), first: false,
  });
});

test("names are found whatever their case and accents", () => {
  assert.deepEqual(matching(EVENT, " arz "), [0]);
  assert.deepEqual(matching(EVENT, "B"), [1, 2, 3, 4]);
  assert.deepEqual(matching(EVENT, ""), [0, 1, 2, 3, 4]);
  assert.deepEqual(matching(EVENT, "xyz"), []);
});
