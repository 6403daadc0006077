/**
 * The standings: a table of any length of which only the rows in sight exist.
 *
 * Rows are kept by owner and placed by a transform, so that who climbs is seen climbing. A row that is there is changed
 * where it differs, and nowhere else. Screen readers are told the true number of rows, and of each its index.
 */

import { element, formatMoment, formatNumber, formatWhole, setAttribute, setText } from "./format.js";

/** Rows beyond each edge that are there too. */
const MARGIN = 8;
const CELLS = 7; // before the challenges
const NONE = new Set();
const SAYS = ["", "solved", "first blood"];

export class Table {
  #table;
  #head;
  #body;
  #headScroll;
  #bodyScroll;
  #pinned;
  #onLook;
  #onPin;
  #rows = new Map(); // by owner
  #pinnedRow = null;
  #spare = []; // rows that went out of sight, to be used again
  #shown = { rows: [], from: 0, count: 0, pinned: null, best: 0 };
  #columns = [];
  #labels = "";
  #asked = "";
  #pending = false;
  #ruler = element("div", { class: "ruler", role: "none" });

  /** `onLook(first, last)` asks for rows, `onPin(id, name)` says that somebody pinned one (null: none). */
  constructor(root, { onLook, onPin }) {
    this.#table = root;
    this.#head = root.querySelector(".head");
    this.#pinned = root.querySelector(".pinned");
    this.#body = root.querySelector(".body");
    this.#headScroll = root.querySelector(".head-scroll");
    this.#bodyScroll = root.querySelector(".body-scroll");
    this.#table.append(this.#ruler);
    this.#onLook = onLook;
    this.#onPin = onPin;
    addEventListener("scroll", () => this.#soon(), { passive: true, capture: true });
    addEventListener("resize", () => this.#soon());
    this.#bodyScroll.addEventListener("scroll", () => (this.#headScroll.scrollLeft = this.#bodyScroll.scrollLeft), {
      passive: true,
    });
    root.addEventListener("click", (event) => this.#onClick(event));
  }

  /** The rows in sight, and some more: [first, last). */
  get window() {
    const height = this.#rowHeight;
    const top = this.#body.getBoundingClientRect().top;
    const screens = Math.ceil(innerHeight / height);
    const first = Math.max(0, Math.floor(-top / height) - MARGIN);
    return [first, first + screens + 2 * MARGIN];
  }

  get #rowHeight() {
    return this.#ruler.getBoundingClientRect().height;
  }

  /** The challenges, in the order of their columns. Their points change all the time, the rest hardly ever. */
  setColumns(challenges, { owner }) {
    const labels = JSON.stringify([owner, challenges.map(({ id, title, category }) => [id, title, category])]);
    if (labels !== this.#labels) {
      this.#labels = labels;
      this.#columns = challenges;
      this.#makeHead(challenges, owner);
      for (const { root } of this.#rows.values()) root.remove();
      this.#rows.clear();
      this.#spare = [];
      this.#pinnedRow?.root.remove();
      this.#pinnedRow = null;
      setAttribute(this.#table, "aria-colcount", String(CELLS + challenges.length));
      this.#table.style.setProperty("--columns", challenges.length);
    }
    const cells = this.#head.lastChild.children;
    for (const [index, { points, solves, title, category }] of challenges.entries()) {
      const cell = cells[index];
      setText(cell.lastChild, formatNumber(points));
      setAttribute(cell, "title", `${title} (${category}): ${points} points, ${solves} solves`);
    }
  }

  /** `rows` are those from `from` on, of `count`. `fresh` holds "owner:challenge" of solves to point out. */
  show({ rows, from, count, pinned, best }, fresh = new Set()) {
    this.#shown = { rows, from, count, pinned, best: best ?? this.#shown.best };
    this.#body.style.height = `calc(${count} * var(--row))`;
    setAttribute(this.#table, "aria-rowcount", String(count + 1));
    const kept = new Set(rows.map(({ id }) => id));
    for (const [id, made] of this.#rows) {
      // A row with the focus stays, lest the focus be lost.
      if (!kept.has(id) && !made.root.contains(document.activeElement)) {
        made.root.remove();
        this.#rows.delete(id);
        this.#spare.push(made);
      }
    }
    for (const [index, row] of rows.entries()) this.#place(row, from + index, fresh);
    this.#spare.length = Math.min(this.#spare.length, 2 * rows.length);
    this.#showPinned(pinned);
    this.#asked = `${from}`;
  }

  #place(row, index, fresh) {
    let made = this.#rows.get(row.id);
    if (made === undefined) {
      made = this.#spare.pop() ?? makeRow(this.#columns.length);
      this.#rows.set(row.id, made);
      made.root.style.transform = `translateY(calc(${index} * var(--row)))`;
      for (const old of [made.root, ...made.marks.querySelectorAll(".fresh")]) old.classList.remove("flash", "fresh");
      fillRow(made, row, this.#shown, this.#columns, NONE);
      this.#body.append(made.root);
    } else {
      made.root.style.transform = `translateY(calc(${index} * var(--row)))`;
      fillRow(made, row, this.#shown, this.#columns, fresh);
    }
    setAttribute(made.root, "aria-rowindex", String(index + 2));
    made.root.classList.toggle("odd", index % 2 === 1);
  }

  #showPinned(row) {
    for (const made of this.#rows.values()) setAttribute(made.pin, "aria-pressed", String(made.id === row?.id));
    if (row === null) {
      this.#pinnedRow?.root.remove();
      return;
    }
    this.#pinnedRow ??= makeRow(this.#columns.length);
    fillRow(this.#pinnedRow, row, this.#shown, this.#columns, NONE);
    setAttribute(this.#pinnedRow.pin, "aria-pressed", "true");
    setAttribute(this.#pinnedRow.root, "aria-rowindex", String(row.rank + 1));
    this.#pinned.append(this.#pinnedRow.root);
  }

  #makeHead(challenges, owner) {
    const lead = element(
      "div",
      { class: "lead" },
      heading("rank", "#", "Rank"),
      heading("move", "±", "Places won or lost lately"),
      heading("name", owner),
      heading("score", "Score"),
      heading("solves", "Solves"),
      heading("last", "Last solve"),
      heading("keep", "", "Pin"),
      element("p", { class: "key", "aria-hidden": "true" }, element("i", { class: "mark solved" }), "solved", element("i", { class: "mark solved blood" }), "first blood"),
    );
    const marks = element("div", { class: "marks" });
    let group = null;
    for (const { title, category } of challenges) {
      const cell = element(
        "div",
        { role: "columnheader", class: "challenge" },
        element("span", { class: "title" }, element("bdi", {}, title)),
        element("span", { class: "points" }),
      );
      if (category !== group) {
        group = category;
        cell.classList.add("begins");
        const span = challenges.filter((challenge) => challenge.category === category).length;
        const label = element("span", { class: "category", "aria-hidden": "true" }, category);
        label.style.setProperty("--span", span);
        cell.prepend(label);
      }
      marks.append(cell);
    }
    this.#head.replaceChildren(lead, marks);
  }

  #soon() {
    if (this.#pending) return;
    this.#pending = true;
    requestAnimationFrame(() => {
      this.#pending = false;
      this.look();
    });
  }

  /** Ask for what is in sight, if it is not there. */
  look() {
    const [first, last] = this.window;
    const { from, rows, count } = this.#shown;
    const end = from + rows.length;
    const inSight = [first + MARGIN / 2, Math.min(count, last - MARGIN / 2)];
    if ((from <= Math.max(0, inSight[0]) || from === 0) && end >= inSight[1]) return;
    if (this.#asked === `${first}-${last}`) return;
    this.#asked = `${first}-${last}`;
    this.#onLook(first, last);
  }

  #onClick(event) {
    const button = event.target.closest("button.pin");
    if (button === null) return;
    const pressed = button.getAttribute("aria-pressed") === "true";
    this.#onPin(pressed ? null : Number(button.value));
  }
}

function heading(name, text, label = null) {
  const made = element("div", { role: "columnheader", class: name }, text);
  if (label !== null) {
    made.setAttribute("aria-label", label);
    made.title = label;
  }
  return made;
}

function makeRow(columns) {
  const cell = (name, role = "cell") => element("div", { role, class: name });
  const made = {
    rank: cell("rank"),
    move: cell("move"),
    name: cell("name", "rowheader"),
    label: element("bdi"),
    score: cell("score"),
    solves: cell("solves"),
    last: cell("last"),
    time: element("time"),
    keep: cell("keep"),
    pin: element("button", { class: "pin", type: "button", "aria-pressed": "false" }),
    marks: element("div", { class: "marks" }),
    said: "",
  };
  made.name.append(made.label);
  made.last.append(made.time);
  made.keep.append(made.pin);
  const lead = [made.rank, made.move, made.name, made.score, made.solves, made.last, made.keep];
  for (let column = 0; column < columns; column++) made.marks.append(cell("mark"));
  made.root = element("div", { role: "row", class: "row" }, element("div", { class: "lead" }, ...lead), made.marks);
  return made;
}

function fillRow(made, row, { best }, columns, fresh) {
  made.id = row.id;
  setText(made.rank, String(row.rank));
  setAttribute(made.root, "data-rank", row.rank <= 10 ? String(row.rank) : null);
  setAttribute(made.root, "data-id", String(row.id));
  const moved = row.moved === null ? "new" : row.moved > 0 ? "up" : row.moved < 0 ? "down" : null;
  setAttribute(made.move, "data-moved", moved);
  setText(made.move, row.moved === null ? "new" : row.moved === 0 ? "" : String(Math.abs(row.moved)));
  setAttribute(made.move, "aria-label", row.moved ? `${moved} ${Math.abs(row.moved)}` : null);
  setText(made.label, row.name);
  setAttribute(made.label, "title", row.name);
  setText(made.score, formatNumber(row.score));
  made.root.style.setProperty("--share", best > 0 ? Math.max(0, row.score / best).toFixed(4) : "0");
  setText(made.solves, formatNumber(row.solves));
  setText(made.time, row.last === null ? "" : formatMoment(Date.parse(row.last)));
  if (made.time.getAttribute("datetime") !== row.last) {
    setAttribute(made.time, "datetime", row.last);
    setAttribute(made.time, "title", row.last === null ? null : formatWhole(Date.parse(row.last)));
  }
  setAttribute(made.pin, "value", String(row.id));
  setAttribute(made.pin, "aria-label", `Pin ${row.name}`);
  setAttribute(made.pin, "title", "Pin to the top");
  if (made.said !== row.marks) {
    for (let column = 0; column < row.marks.length; column++) {
      const mark = row.marks[column];
      if (made.said[column] === mark) continue;
      const cell = made.marks.children[column];
      const { id, title, category } = columns[column];
      const isFresh = fresh.has(`${row.id}:${id}`);
      cell.className = `mark${mark === "0" ? "" : mark === "1" ? " solved" : " solved blood"}${isFresh ? " fresh" : ""}`;
      setAttribute(cell, "aria-label", SAYS[mark] || null);
      setAttribute(cell, "title", mark === "0" ? null : `${title} (${category}): ${SAYS[mark]}`);
    }
    made.said = row.marks;
  }
  if (fresh.size && columns.some(({ id }) => fresh.has(`${row.id}:${id}`))) flash(made.root);
}

function flash(root) {
  root.classList.remove("flash");
  requestAnimationFrame(() => root.classList.add("flash"));
}
