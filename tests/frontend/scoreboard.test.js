// The pure core of scoreboard.js under Node. VECTORS names a file of histories, made and judged by test_module.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import { Election } from "../../scoreboardd/frontend/election.js";
import {
  Board,
  Scoreboard,
  StreamParser,
  backoff,
  compareBytes,
  decide,
  parseVersion,
  reaches,
} from "../../scoreboardd/frontend/scoreboard.js";

const of = (number, epoch = "7f3a") => ({ epoch, number });

test("applied deltas give the documents of the daemon, to the byte, from wherever they may be applied", () => {
  const histories = JSON.parse(readFileSync(process.env.VECTORS, "utf8"));
  assert.ok(histories.length > 0);
  for (const { steps, ...documents } of histories) {
    for (const kind of ["users", "teams"]) {
      const boards = documents[kind].map((text, number) => Board.fromDocument(kind, of(number), JSON.parse(text)));
      for (const step of steps) {
        const data = JSON.parse(step);
        for (const [number, board] of boards.entries()) {
          const decision = decide(board.version, { id: `7f3a-${data.version}`, event: "delta", data });
          assert.equal(decision.do, number < data.from ? "refetch" : number < data.version ? "apply" : "ignore");
          if (decision.do !== "apply") continue;
          const next = board.apply(data);
          assert.equal(JSON.stringify(next.document), documents[kind][data.version], `from ${number} by ${step}`);
          assert.deepEqual(next.version, of(data.version));
        }
      }
      for (const [number, { document }] of boards.entries()) {
        assert.equal(JSON.stringify(document), documents[kind][number], "a board stays as it is");
      }
      let board = boards[0]; // and one after the other, each from what the one before it made
      for (const data of steps.map((step) => JSON.parse(step)).filter(({ from, version }) => version === from + 1)) {
        board = board.apply(data);
        assert.equal(JSON.stringify(board.document), documents[kind][data.version]);
      }
    }
  }
});

test("names compare as their bytes do", () => {
  const names = ["b", "a", "B", "é", "z", "😀", "～", "\u{10ffff}", "\ue000", "10", "9", "", "a😀", "a～"];
  const encoder = new TextEncoder();
  const bytes = (text) => Buffer.from(encoder.encode(text));
  assert.deepEqual([...names].sort(compareBytes), [...names].sort((a, b) => Buffer.compare(bytes(a), bytes(b))));
});

/** A document of one team, and a delta; `at` sets one of their numbers. */
const MOST = Number.MAX_SAFE_INTEGER;
const document = (edit = () => {}) => {
  const solve = { challenge_id: 1, solved_at: "2026-02-27T18:00:00Z", is_first_blood: false };
  const challenges = [{ id: 1, title: "one", category: "misc", points: 100 }];
  const entries = [{ team_id: 1, team_name: "a", score: 100, solves: [solve] }];
  edit({ challenge: challenges[0], entry: entries[0], solve });
  return { challenges, entries };
};
const boardOf = (made) => Board.fromDocument("teams", of(41), JSON.parse(JSON.stringify(made)));
const onwards = (parts) => ({ from: 41, version: 42, ...parts });

describe("numbers that JavaScript rounds", () => {
  const texts = ["9007199254740992", "9007199254740993", "18446744073709551615", "-9007199254740993", "1e300"];

  test("up to 2^53 - 1 are exact", () => {
    const board = boardOf(document(({ entry }) => (entry.team_id = MOST)));
    const next = board.apply(onwards({ teams: { put: [[MOST - 1, "b"]] } }));
    assert.deepEqual(next.entries.map(({ team_id }) => team_id), [MOST, MOST - 1]);
  });

  test("are refused in a document, wherever they are", () => {
    const places = ['"id":1', '"points":100', '"team_id":1', '"score":100'];
    for (const place of places) {
      const text = JSON.stringify(document());
      for (const number of texts) {
        const changed = JSON.parse(text.replace(place, `${place.split(":")[0]}:${number}`));
        assert.throws(() => Board.fromDocument("teams", of(41), changed), /beyond 2\^53 - 1/, `${place} ${number}`);
      }
    }
  });

  test("are refused in a delta, wherever they are, and the board stays as it was", () => {
    const at = '"2026-02-27T18:00:00Z"';
    const places = [
      '"teams":{"put":[[N,"b"]]}', '"teams":{"drop":[N]}', `"teams":{"solves":[[N,1,${at},0]]}`,
      `"teams":{"solves":[[1,N,${at},0]]}`, '"teams":{"unsolves":[[N,1]]}', '"teams":{"unsolves":[[1,N]]}',
      '"challenges":{"put":[{"id":N,"title":"b","category":"c","points":1}]}', '"challenges":{"drop":[N]}',
      '"challenges":{"put":[{"id":2,"title":"b","category":"c","points":N}]}', '"challenges":{"points":[[N,1]]}',
      '"challenges":{"points":[[1,N]]}',
    ];
    const board = boardOf(document());
    for (const place of places) {
      for (const number of texts) {
        const delta = JSON.parse(`{"from":41,"version":42,${place.replace("N", number)}}`);
        assert.throws(() => board.apply(delta), /beyond 2\^53 - 1/, `${place} ${number}`);
      }
    }
    assert.deepEqual(board.document, document());
  });

  test("are refused as a sum too", () => {
    const board = boardOf(document());
    const points = [[1, MOST]];
    assert.equal(board.apply(onwards({ challenges: { points } })).entries[0].score, MOST);
    const put = [{ id: 2, title: "two", category: "misc", points: 1 }];
    const solves = [[1, 2, "2026-02-27T18:00:00Z", 0]];
    assert.throws(() => board.apply(onwards({ challenges: { points, put }, teams: { solves } })), /a score is beyond 2\^53 - 1/);
  });

  test("are no versions and no divisions", () => {
    assert.equal(parseVersion("7f3a-9007199254740992"), null);
    assert.throws(() => new Scoreboard({ division: 2 ** 53 }), /division is beyond 2\^53 - 1/);
    new Scoreboard({ url: "https://ctf.example.org/", division: "9007199254740993", share: false });
  });
});

test("what is no document is refused", () => {
  for (const made of [null, [], {}, { challenges: [], entries: [{}] }, { challenges: [{}], entries: [] }]) {
    assert.throws(() => Board.fromDocument("teams", of(41), made));
  }
  for (const edit of [
    ({ entry }) => (entry.team_id = "1"),
    ({ entry }) => (entry.team_name = null),
    ({ entry }) => (entry.score = 1.5),
    ({ entry }) => (entry.solves = null),
    ({ solve }) => (solve.challenge_id = 2),
    ({ solve }) => (solve.solved_at = 7),
    ({ challenge }) => (challenge.points = "many"),
    ({ challenge }) => (challenge.title = 7),
  ]) {
    assert.throws(() => boardOf(document(edit)), String(edit));
  }
});

test("what is no delta is refused, and the board stays as it was", () => {
  const board = boardOf(document());
  const at = "2026-02-27T18:00:00Z";
  for (const delta of [
    null, 7, "x", [], {}, { from: 41 }, { from: "41", version: 42 }, { from: 42, version: 42 },
    ...[
      { put: 7 }, { put: [7] }, { put: [["1", "b"]] }, { put: [[2, 7]] }, { put: [[true, "b"]] }, { drop: ["1"] }, { drop: 7 },
      { solves: [[1, 1, at]] }, { solves: [[1, 1, at, true]] }, { solves: [[1, 1, 7, 0]] }, { solves: [[1, 2, at, 0]] },
      { solves: [["1", 1, at, 0]] }, { solves: [[9, 1, at, 0]] }, { unsolves: [[1]] }, { unsolves: [[9, 1]] }, { put: "ab" },
    ].map((teams) => onwards({ teams })),
    ...[
      { put: [{}] }, { put: [{ id: 2, title: 7, category: "c", points: 1 }] }, { drop: [null] }, { points: [[1, "1"]] },
      { points: [[1]] }, { points: [[9, 1]] }, { points: {} },
    ].map((challenges) => onwards({ challenges })),
  ]) {
    assert.throws(() => board.apply(delta), JSON.stringify(delta));
  }
  assert.deepEqual(board.document, document());
});

test("what is no version is null", () => {
  assert.deepEqual(parseVersion("7f3a-41"), of(41));
  for (const text of ["", "41", "7f3a-", "7f3a-x", "-1", undefined, null]) assert.equal(parseVersion(text), null);
  assert.ok(reaches(of(42), of(42)) && reaches(of(43), of(42)));
  assert.ok(!reaches(of(41), of(42)) && !reaches(of(43, "b"), of(42)) && !reaches(null, of(0)));
});

const CASES = JSON.parse(readFileSync(new URL("../client/event_streams.json", import.meta.url), "utf8"));

describe("the stream", () => {
  for (const { case: name, stream, events, retry } of CASES) {
    test(`is interpreted as the standard says, wherever it is split: ${name}`, () => {
      const bytes = Buffer.from(stream, "latin1");
      const splits = [[bytes], [...bytes].map((byte) => Uint8Array.of(byte))];
      for (let at = 0; at <= bytes.length; at++) splits.push([bytes.subarray(0, at), bytes.subarray(at)]);
      for (const chunks of splits) {
        const [decoder, parser, found] = [new TextDecoder(), new StreamParser(), []];
        for (const chunk of chunks) found.push(...parser.feed(decoder.decode(chunk, { stream: true })));
        assert.deepEqual(found, events);
        assert.equal(parser.retry, retry);
      }
    });
  }

  test("is refused if a line or an event has no end", () => {
    const piece = "x".repeat(1 << 20);
    for (const endless of [piece, `: ${piece}`, `data: ${piece}\n`, "data\n".repeat(1 << 20)]) {
      const parser = new StreamParser();
      assert.throws(() => {
        for (let fed = 0; fed < 16; fed++) assert.deepEqual(parser.feed(endless), []);
      }, /of more than 8388608 characters/);
    }
  });

  const said = 'retry: 2714\n\nid: 7f3a-41\nevent: ready\ndata: {}\n\n: ping\n\nid: 7f3a-42\nevent: x\ndata: 1\ndata:2\n\n';
  const events = [
    { id: "7f3a-41", event: "ready", data: "{}" },
    { id: "7f3a-42", event: "x", data: "1\n2" },
  ];

  test("may come in any pieces, with either line ending", () => {
    for (const text of [said, said.replaceAll("\n", "\r\n")]) {
      for (let size = 1; size < text.length; size++) {
        const parser = new StreamParser();
        const found = [];
        for (let at = 0; at < text.length; at += size) found.push(...parser.feed(text.slice(at, at + size)));
        assert.deepEqual(found, events);
        assert.equal(parser.retry, 2714);
      }
    }
  });

  test("half an event is none", () => {
    assert.deepEqual(new StreamParser().feed("id: 7f3a-41\nevent: ready\ndata: {}\n"), []);
  });
});

describe("an event", () => {
  const event = (name, number, data = {}) => ({ id: `7f3a-${number}`, event: name, data });

  test("that continues what is held is applied, wherever on its way that is", () => {
    for (const held of [of(41), of(42), of(44)]) {
      assert.deepEqual(decide(held, event("delta", 45, { from: 41 })), { do: "apply" });
    }
  });

  test("that is known is ignored", () => {
    for (const name of ["delta", "scoreboard", "reset", "ready"]) {
      for (const held of [of(42), of(43)]) {
        assert.deepEqual(decide(held, event(name, 42, { from: 41 })), { do: "ignore" }, name);
      }
    }
  });

  test("that leaves a gap, or is of another epoch, is a reason to fetch", () => {
    for (const held of [null, of(40), of(41, "old"), of(99, "old")]) {
      assert.equal(decide(held, event("delta", 42, { from: 41 })).do, "refetch");
      assert.equal(decide(held, event("scoreboard", 42)).do, "refetch");
      assert.equal(decide(held, event("ready", 42)).do, "refetch");
    }
  });

  test("that is about other divisions only moves the version on", () => {
    const notice = (ids, after = "7f3a-41") => ({ ...event("scoreboard", 42, { scope: "division", division_ids: ids }), after });
    assert.deepEqual(decide(of(41), notice([1, 2]), 3), { do: "advance", version: of(42) });
    assert.deepEqual(decide(of(41), notice([1, 2], "7f3a-40"), 3), { do: "advance", version: of(42) });
    assert.deepEqual(decide(of(42), notice([1, 2]), 3), { do: "ignore" });
    for (const [held, said, division] of [
      [of(41), notice([1, 2]), 2],
      [of(41), notice([1, 2]), null], // everyone's board is about every division
      [of(40), notice([1, 2]), 3], // something was missed
      [null, notice([1, 2]), 3],
      [of(41), notice([1, 2], ""), 3],
      [of(41), notice([1, 2], null), 3],
      [of(41), notice([1, 2], "old-41"), 3],
      [of(41, "old"), notice([1, 2], "old-41"), 3],
      [of(41), notice([]), 3],
      [of(41), notice(null), 3],
      [of(41), notice("12"), 3],
    ]) {
      assert.equal(decide(held, said, division).do, "refetch");
    }
  });

  test("whose data are garbage is a reason to fetch", () => {
    for (const data of [null, 7, "x", [], {}, { from: null }, { from: "41" }, { from: 41.5 }, { from: 2 ** 60 }]) {
      assert.equal(decide(of(41), event("delta", 42, data)).do, "refetch");
      for (const name of ["scoreboard", "ready"]) assert.equal(decide(of(41), event(name, 42, data)).do, "refetch");
      assert.equal(decide(of(41), event("reset", 42, data)).within, 0.3);
    }
    for (const spread of [-1, "x", null, 1 / 0]) assert.equal(decide(of(41), event("reset", 42, { spread })).within, 0.3);
    assert.equal(decide(of(41), event("reset", 42, { spread: 1e12 })).within, 600);
  });

  test("that resets says over how many seconds to spread", () => {
    for (const held of [null, of(41), of(99, "old")]) {
      assert.equal(decide(held, event("reset", 42, { spread: 30 })).within, 30);
      assert.equal(decide(held, event("reset", 42, { spread: "x" })).do, "refetch");
    }
  });

  test("of another kind, or without a version, is nothing to us", () => {
    assert.deepEqual(decide(of(41), event("news", 42)), { do: "ignore" });
    assert.deepEqual(decide(of(41), { id: "", event: "ready", data: {} }), { do: "ignore" });
  });
});

test("waits grow, are never the same, and end", () => {
  assert.equal(backoff(0, 2, 0.5), 2, "the first is what the server asked for, random already");
  for (const random of [0, 0.5, 0.999]) {
    const waits = [1, 2, 3, 4, 20].map((attempt) => backoff(attempt, 2, random));
    assert.deepEqual([...waits].sort((a, b) => a - b), waits);
    assert.ok(waits.every((wait) => wait >= 1 && wait <= 15));
  }
  assert.ok(backoff(5, 2, 0.1) < backoff(5, 2, 0.9));
});

describe("of many tabs", () => {
  /** Tabs in virtual time; a message reaches all others `lag` seconds later. */
  class Browser {
    now = 0;
    tabs = new Map();
    asleep = new Set();
    post = [];
    seed = 1;
    random = () => ((this.seed = (this.seed * 48271) % 2147483647) / 2147483647);

    open(id) {
      const tab = new Election(id, this.random);
      this.tabs.set(id, tab);
      this.#send(id, tab.start(this.now));
    }

    close(id, { politely }) {
      if (politely) this.#send(id, this.tabs.get(id).leave());
      this.tabs.delete(id);
    }

    run(seconds, lag = 0.01) {
      for (const end = this.now + seconds; this.now < end; this.now += 0.05) {
        const due = this.post.filter(({ at }) => at + lag <= this.now);
        this.post = this.post.filter(({ at }) => at + lag > this.now);
        for (const { message } of due) {
          for (const [id, tab] of this.tabs) {
            if (id !== message.from && !this.asleep.has(id)) this.#send(id, tab.receive(message, this.now));
          }
        }
        for (const [id, tab] of this.tabs) if (!this.asleep.has(id)) this.#send(id, tab.tick(this.now));
      }
    }

    get leaders() {
      return [...this.tabs.values()].filter((tab) => tab.role === "leader").map((tab) => tab.id);
    }

    #send(from, messages) {
      for (const message of messages) this.post.push({ at: this.now, message: { ...message, from } });
    }
  }

  const seven = () => {
    const browser = new Browser();
    for (const id of "abcdefg") browser.open(id);
    return browser;
  };

  test("exactly one leads, and all others know which", () => {
    const browser = seven();
    browser.run(1);
    assert.equal(browser.leaders.length, 1);
    for (const tab of browser.tabs.values()) assert.equal(tab.leader, browser.leaders[0]);
    const [leader] = browser.leaders;
    browser.run(60);
    assert.deepEqual(browser.leaders, [leader], "nobody takes over from who is well");
  });

  test("a newcomer follows", () => {
    const browser = seven();
    browser.run(1);
    const [leader] = browser.leaders;
    browser.open("0");
    browser.run(5);
    assert.deepEqual(browser.leaders, [leader]);
  });

  for (const politely of [true, false]) {
    test(`another leads once the leader is gone, ${politely ? "with" : "without"} a word`, () => {
      const browser = seven();
      browser.run(1);
      browser.close(browser.leaders[0], { politely });
      browser.run(politely ? 1 : 9);
      assert.equal(browser.leaders.length, 1);
    });
  }

  test("two that lead become one", () => {
    const browser = new Browser();
    browser.open("a");
    browser.open("b");
    browser.run(1, 10); // they do not hear each other in time
    assert.deepEqual(browser.leaders, ["a", "b"]);
    browser.run(20);
    assert.equal(browser.leaders.length, 1);
  });

  test("one that wakes up from sleep leaves the lead to who took it", () => {
    const browser = seven();
    browser.run(1);
    const [sleeper] = browser.leaders;
    browser.asleep.add(sleeper);
    browser.run(20);
    const took = browser.leaders.filter((id) => id !== sleeper);
    assert.equal(took.length, 1);
    browser.asleep.delete(sleeper);
    browser.run(20);
    assert.equal(browser.leaders.length, 1);
  });
});
