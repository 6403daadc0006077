/** The page: it sends the settings of its controls to the worker, and draws what the worker sends. Every message has a `type`. */

import { Chart } from "./chart.js";
import { count, element, formatExact, formatMoment, formatNumber, setAttribute, setText } from "./format.js";
import { Table } from "./table.js";

const VIEWS = ["board", "projector", "overlay"];
const FIRST_BLOOD_MS = 6000;
const BEHIND_MS = 3000; // how long a board may be behind before the page says so
const TURN_MS = 8000; // the projector's list rests at its top and its end
const SCREEN_MS = 12_000; // and takes this long for the height of the screen

const $ = (id) => document.getElementById(id);
const parameters = new URLSearchParams(location.search);
const view = VIEWS.includes(parameters.get("view")) ? parameters.get("view") : "board";
const root = new URL("./", location.href).href;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const policy = globalThis.trustedTypes?.createPolicy("scoreboardd", { createScriptURL: (url) => url });
const workerUrl = new URL("worker.js", import.meta.url).href;
const worker = new Worker(policy ? policy.createScriptURL(workerUrl) : workerUrl, { type: "module" });

document.documentElement.dataset.view = view;
if (["dark", "light"].includes(parameters.get("theme"))) document.documentElement.dataset.theme = parameters.get("theme");

const look = {
  kind: parameters.get("kind") === "users" ? "users" : "teams",
  division: divisionOf(parameters.get("division")),
  query: parameters.get("q") ?? "",
};
/** The id of a division stays text, which is exact. */
function divisionOf(text) {
  return /^[0-9]+$/.test(text ?? "") ? text : null;
}

let connection = { status: "connecting", since: null, stale: false, problem: null };
let shown = null;

// --- standings, chart, feed ---------------------------------------------------------------------------------------

const table = new Table($("table"), {
  onLook: (first, last) => worker.postMessage({ type: "look", first, last }),
  onPin(id) {
    remember(id);
    worker.postMessage({ type: "look", pin: id });
  },
});
const chart = new Chart($("chart"), $("legend"));

function drawBoard(board) {
  const first = shown === null || shown.kind !== board.kind;
  shown = board;
  const who = board.kind === "teams" ? "Team" : "Player";
  table.setColumns(board.challenges, { owner: who });
  table.show(board, new Set(board.fresh));
  chart.show(board.history, board.first, board.last);
  drawFeed(board);
  drawFacts(board);
  drawFound(board);
  document.documentElement.dataset.version = board.version;
  if (first) table.look();
}

function drawRows(rows) {
  if (shown === null || rows.kind !== shown.kind) return;
  Object.assign(shown, rows);
  table.show(shown);
  drawFound(shown);
}

function drawFound({ count: found }) {
  setText($("found"), look.query ? count(found, "match", "matches") : "");
  setText($("empty"), look.query ? "Nobody of that name." : "Nobody has signed up yet.");
  $("empty").hidden = found > 0;
}

function drawFacts({ kind, owners, challenges, solves, since, outliers }) {
  const who = kind === "teams" ? ["team", "teams"] : ["player", "players"];
  const parts = [count(owners, ...who), count(challenges.length, "challenge", "challenges"), count(solves, "solve", "solves")];
  setText($("facts"), parts.join(" · "));
  setText($("outliers"), outliers ? `◂▸ ${count(outliers, "solve is", "solves are")} dated outside of the time shown.` : "");
  setText($("since"), since === null ? "" : `▲▼ places won and lost since ${formatExact(since)}.`);
}

function drawFeed({ feed, fresh }) {
  const news = new Set(fresh);
  const old = new Map([...$("feed").children].map((item) => [item.dataset.key, item]));
  $("feed").replaceChildren(
    ...feed.map((solve) => {
      const item = old.get(solve.key) ?? makeFeedItem(solve);
      setText(item.querySelector("b"), `+${formatNumber(solve.points)}`);
      item.classList.toggle("fresh", news.has(solve.key));
      return item;
    }),
  );
  for (const solve of feed.filter(({ key, first }) => first && news.has(key)).reverse()) announce(solve);
}

function makeFeedItem({ key, name, title, category, at, first }) {
  const item = element(
    "li",
    { class: first ? "blood" : "" },
    element("time", { datetime: at }, formatMoment(Date.parse(at))),
    element(
      "p",
      {},
      element("bdi", { class: "who" }, name),
      element("span", {}, first ? " drew first blood on " : " solved "),
      element("bdi", { class: "what" }, title || "a hidden challenge"),
      element("small", {}, ` ${category}`),
    ),
    element("b"),
  );
  item.dataset.key = key;
  return item;
}

// --- first firstBloodQueue -------------------------------------------------------------------------------------------------

const firstBloodQueue = [];

function announce(solve) {
  $("announcer").append(element("p", {}, `First blood: ${solve.name} solved ${solve.title} in ${solve.category}.`));
  while ($("announcer").children.length > 5) $("announcer").firstChild.remove();
  if (view === "board") return;
  firstBloodQueue.push(solve);
  if (firstBloodQueue.length === 1) showBlood();
}

function showBlood() {
  const [solve] = firstBloodQueue;
  setText($("blood-name"), solve.name);
  setText($("blood-title"), solve.title);
  setText($("blood-category"), `${solve.category} · ${formatNumber(solve.points)}`);
  $("blood").hidden = false;
  setTimeout(() => {
    $("blood").hidden = true;
    firstBloodQueue.shift();
    if (firstBloodQueue.length) setTimeout(showBlood, 400);
  }, FIRST_BLOOD_MS);
}

// --- the connection ---------------------------------------------------------------------------------------------------

function drawConnection() {
  const { status, since, stale, problem } = connection;
  const behind = since !== null && Date.now() - since > BEHIND_MS;
  const asOf = since === null ? "" : ` since ${formatExact(since)}`;
  const [mood, text] =
    status === "live" && stale
      ? ["stale", "Live, but the server's board is out of date"]
      : status === "live" && behind
        ? ["stale", `Catching up, stale${asOf}`]
        : status === "live"
          ? ["live", "Live"]
          : status === "connecting"
            ? ["off", problem === null || !behind ? "Connecting" : `No board yet: ${problem}`]
            : ["off", `Reconnecting, stale${asOf}${problem === null ? "" : `: ${problem}`}`];
  setAttribute($("connection"), "data-mood", mood);
  setText($("status"), text);
  setAttribute(document.documentElement, "data-mood", mood);
}

setInterval(drawConnection, 1000);

worker.onmessage = ({ data }) => {
  const { type, ...content } = data;
  if (type === "board") drawBoard(content);
  else if (type === "rows") drawRows(content);
  else if (type === "state") {
    connection = content;
    drawConnection();
  }
};
worker.onerror = (event) => {
  connection = { status: "connecting", since: 0, stale: false, problem: event.message || "this browser is too old" };
  drawConnection();
};

const wake = () => worker.postMessage({ type: "wake" });
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && wake());
addEventListener("online", wake);
addEventListener("pageshow", (event) => event.persisted && wake());
addEventListener("pagehide", (event) => event.persisted || worker.postMessage({ type: "leave" }));

// --- controls -----------------------------------------------------------------------------------------------------

const pinKey = () => `scoreboardd ${root} ${look.kind}`;

function remember(id) {
  try {
    if (id === null) localStorage.removeItem(pinKey());
    else localStorage.setItem(pinKey(), String(id));
  } catch {
    // Private windows may forbid it: then it is forgotten with the page.
  }
}

function remembered() {
  try {
    return Number(localStorage.getItem(pinKey())) || null;
  } catch {
    return null;
  }
}

function changed() {
  const query = new URLSearchParams(location.search);
  const setParameter = (name, value) => (value ? query.set(name, value) : query.delete(name));
  setParameter("kind", look.kind === "users" ? "users" : null);
  setParameter("division", look.division);
  setParameter("q", look.query);
  history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  if (scrollY > $("standings").offsetTop) scrollTo({ top: $("standings").offsetTop });
  const [first, last] = [0, table.window[1] - table.window[0]];
  worker.postMessage({ type: "look", root, ...look, first, last, pin: remembered() });
}

for (const radio of document.querySelectorAll("input[name=kind]")) {
  radio.checked = radio.value === look.kind;
  radio.addEventListener("change", () => {
    look.kind = radio.value;
    changed();
  });
}
$("search").value = look.query;
$("search").addEventListener("input", () => {
  look.query = $("search").value;
  changed();
});
$("division").addEventListener("change", () => {
  look.division = divisionOf($("division").value);
  changed();
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    $("search").focus();
  }
});

/** Show the contest's own name, whose board counts, and since when it is frozen. */
function drawContest({ name, mode, frozen_at: frozenAt }) {
  if (name) {
    document.title = name;
    setText(document.querySelector("h1"), name);
  }
  $("kinds").hidden = mode === "users"; // then there are no teams
  if (mode === "users" && look.kind !== "users") {
    look.kind = "users";
    changed();
  }
  setText($("frozen"), frozenAt === undefined ? "" : `The board is frozen since ${formatExact(Date.parse(frozenAt))}.`);
}

async function loadContest() {
  for (let wait = 1000; ; wait = Math.min(2 * wait, 15_000)) {
    try {
      const response = await fetch(new URL("api/scoreboard", root), { cache: "no-store" });
      const { divisions, version, ...contest } = await response.json();
      drawContest(contest);
      for (const { id, name } of divisions) {
        const exact = Number.isSafeInteger(id);
        const option = element("option", { value: String(id) }, exact ? name : `${name}: its id is too large for a browser`);
        option.disabled = !exact;
        $("division").append(option);
      }
      $("division").value = look.division ?? "";
      $("division-field").hidden = divisions.length === 0;
      if (version !== null) return; // there are no divisions before the first document
    } catch {
      // The connection state shows it.
    }
    await new Promise((resolve) => setTimeout(resolve, wait * (0.5 + Math.random())));
  }
}

// --- the projector ------------------------------------------------------------------------------------------------

/** Scroll down the list and back to its top, for ever. With reduced motion, scroll a screen at a time. */
async function autoScroll(scroller) {
  const pause = (duration) => new Promise((resolve) => setTimeout(resolve, duration));
  const end = () => scroller.scrollHeight - scroller.clientHeight;
  for (;;) {
    await pause(TURN_MS);
    if (calm.matches) {
      scroller.scrollTop = scroller.scrollTop >= end() - 1 ? 0 : scroller.scrollTop + 0.8 * scroller.clientHeight;
      continue;
    }
    const speed = scroller.clientHeight / SCREEN_MS;
    let [top, before] = [scroller.scrollTop, performance.now()];
    while (top < end()) {
      const now = await new Promise(requestAnimationFrame);
      top += speed * Math.min(100, now - before); // however long the page was hidden
      before = now;
      scroller.scrollTop = top;
    }
    await pause(TURN_MS);
    scroller.scrollTop = 0;
  }
}

drawConnection();
changed();
loadContest();
if (view === "projector") autoScroll($("standings"));
