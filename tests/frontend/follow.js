// Scoreboards under Node, as the tabs of one browser: each says a JSON line for each of its events, and does what standard
// input says: `open`, `close TAB`, `verify TAB`, `wake TAB`, and, for all of them, `leap SECONDS` and `creep SECONDS`.
import { createInterface } from "node:readline";

import { Scoreboard, showVersion } from "../../scoreboardd/frontend/scoreboard.js";

const options = JSON.parse(process.argv[3] ?? "{}");
const tabs = [];
const say = (said) => process.stdout.write(`${JSON.stringify(said)}\n`);
const clock = Date.now;
let ahead = 0;
Date.now = () => clock() + 1000 * ahead;

function open() {
  const scoreboard = new Scoreboard({ url: process.argv[2], boards: ["users", "teams"], ...options });
  const tab = tabs.push(scoreboard) - 1;
  scoreboard.addEventListener("board", ({ detail: { kind, board, reason } }) =>
    say({ say: "board", tab, kind, reason, version: showVersion(board.version), document: JSON.stringify(board.document) }),
  );
  scoreboard.addEventListener("state", ({ detail }) => say({ say: "state", tab, ...detail }));
  scoreboard.start();
}

const commands = {
  open,
  close: (tab) => tabs[tab].close(),
  verify: async (tab) => say({ say: "verified", tab, same: await tabs[tab].verify() }),
  wake: (tab) => tabs[tab].wake(),
  leap: (seconds) => (ahead += seconds),
  /** So that nobody notices a leap. */
  async creep(seconds) {
    for (const end = ahead + seconds; ahead < end; ahead += 5) await new Promise((resolve) => setTimeout(resolve, 300));
    say({ say: "crept" });
  },
};

open();
for await (const line of createInterface({ input: process.stdin })) {
  const [command, value] = line.split(" ");
  await commands[command](Number(value));
}
