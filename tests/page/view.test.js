// What the page shows of a board, under Node. VECTORS as for scoreboard.test.js.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Board } from "../../scoreboardd/web/page/scoreboard.js";
import {
  columns,
  compareTimes,
  feed,
  history,
  matching,
  movementSince,
  ranksBefore,
  row,
  survey,
} from "../../scoreboardd/web/page/view.js";

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
  const surveyed = survey(EVENT);
  const columnOf = new Map(columns(CHALLENGES).map(({ id }, index) => [id, index]));
  return row(EVENT, place, { columnOf, before: ranksBefore(EVENT, surveyed, movementSince(surveyed)) });
};

test("categories stand together, in the order in which they first appear", () => {
  assert.deepEqual(columns(CHALLENGES).map(({ id }) => id), [1, 3, 2]);
});

test("times order to the microsecond, with or without a fraction", () => {
  const times = [at(1), at(1, ".000001"), at(1, ".1"), at(1, ".12"), at(2)];
  assert.deepEqual([...times].reverse().sort(compareTimes), times);
});

test("a survey counts, and finds the newest solves, newest first", () => {
  const { solves, first, last, recent } = survey(EVENT);
  assert.deepEqual([...solves], [[1, 3], [2, 2], [3, 1]]);
  assert.deepEqual([first, last], [at(0), at(40)].map(Date.parse));
  assert.deepEqual(recent.map(({ solve }) => solve.solved_at), [40, 39, 30, 20, 10, 0].map((minute) => at(minute)));
});

test("of very many solves it finds the newest, too", () => {
  const minutes = [...Array(60).keys()];
  const teams = Array.from({ length: 40 }, (_, team) => [`team ${team}`, [1, at(minutes[(team * 37) % 60], `.${team + 100}`)]]);
  const all = teams.map(([, [, when]]) => when).sort(compareTimes).reverse();
  const { recent } = survey(board(...[...teams, ...teams, ...teams, ...teams, ...teams, ...teams, ...teams]));
  assert.deepEqual(new Set(recent.map(({ solve }) => solve.solved_at)), new Set(all.slice(0, 5)));
});

test("a survey that begins with the one before finds what one from scratch does", () => {
  for (const { steps, ...documents } of JSON.parse(readFileSync(process.env.VECTORS, "utf8"))) {
    for (const kind of ["users", "teams"]) {
      for (const delta of steps.map((step) => JSON.parse(step))) {
        const document = JSON.parse(documents[kind][delta.from]);
        const before = Board.fromDocument(kind, { epoch: "7f3a", number: delta.from }, document);
        const after = before.apply(delta);
        assert.deepEqual(survey(after, survey(before)), survey(after));
      }
    }
  }
});

test("who moved is told over the last quarter of what was played", () => {
  assert.equal(movementSince(survey(EVENT)), Date.parse("2026-02-27T18:30:00Z"));
  const day = survey(board(["a", [1, "2026-02-27T00:00:00Z"], [2, at(0)]]));
  assert.equal(movementSince(day), Date.parse("2026-02-27T17:00:00Z"));
  assert.equal(movementSince(survey(board(["nobody"]))), null);
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
  const before = ranksBefore(overtaken, survey(overtaken), Date.parse("2026-02-27T18:30:00Z"));
  const columnOf = new Map(CHALLENGES.map(({ id }, index) => [id, index]));
  const moved = [0, 1].map((place) => row(overtaken, place, { columnOf, before }).moved);
  assert.deepEqual(moved, [1, -1]);
});

test("the history adds up current points", () => {
  assert.deepEqual(history(EVENT).map(({ name, points }) => [name, points.map(([, score]) => score)]), [
    ["Ärzte", [100, 400]],
    ["ab", [100, 400]],
    ["b", [100]],
    ["<b>", [50]],
  ]);
});

test("the feed names who and what", () => {
  const [newest] = feed(EVENT, survey(EVENT));
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
