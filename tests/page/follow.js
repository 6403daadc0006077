// A Scoreboard under Node: says a JSON line for each of its events, does what its standard input says.
import { createInterface } from "node:readline";

import { Scoreboard, showVersion } from "../../scoreboardd/web/page/scoreboard.js";

const say = (said) => process.stdout.write(`${JSON.stringify(said)}\n`);
const scoreboard = new Scoreboard({ url: process.argv[2], boards: ["users", "teams"], share: false });
scoreboard.addEventListener("board", ({ detail: { kind, board, reason } }) =>
  say({ say: "board", kind, reason, version: showVersion(board.version), document: JSON.stringify(board.document) }),
);
scoreboard.addEventListener("state", ({ detail }) => say({ say: "state", ...detail }));
scoreboard.start();

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "verify") say({ say: "verified", same: await scoreboard.verify() });
}
scoreboard.close();
