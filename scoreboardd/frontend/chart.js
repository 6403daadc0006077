/** The score of the first ten over time, as steps. Hover, touch or the arrow keys show the values at a moment. */

import { count, element, formatClock, formatDate, formatExact, formatNumber, formatWhole, setAttribute, setText, svg } from "./format.js";

const MARGIN = { top: 10, right: 14, bottom: 22, left: 46 };
const DAY = 1440;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, DAY, 2 * DAY, 7 * DAY, 28 * DAY, 364 * DAY].map(
  (minutes) => minutes * 60_000,
);

export class Chart {
  #root;
  #svg = svg("svg", { "aria-hidden": "true", focusable: "false" });
  #grid = svg("g", { class: "grid" });
  #lines = svg("g", { class: "lines" });
  #outliers = svg("g", { class: "outliers" });
  #cursor = svg("g", { class: "cursor" });
  #tip = element("div", { class: "tip", "aria-hidden": "true", hidden: "" });
  #legend;
  #paths = new Map();
  #series = [];
  #from = 0;
  #to = 0;
  #top = 1;
  #at = null; // the moment looked at
  // Remembered, not asked for: the browser would have to lay out the page for every answer.
  #width = 0;
  #height = 0;

  constructor(root, legend) {
    this.#root = root;
    this.#legend = legend;
    this.#svg.append(this.#grid, this.#lines, this.#outliers, this.#cursor);
    root.append(this.#svg, this.#tip);
    new ResizeObserver(([{ contentRect }]) => {
      [this.#width, this.#height] = [contentRect.width, contentRect.height];
      this.#draw();
    }).observe(root);
    root.addEventListener("pointermove", (event) => this.#look(this.#timeAt(event.clientX)));
    root.addEventListener("pointerdown", (event) => this.#look(this.#timeAt(event.clientX)));
    root.addEventListener("pointerleave", () => this.#look(null));
    root.addEventListener("blur", () => this.#look(null));
    root.addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** `series` as `history` makes it; `from` and `to` in milliseconds. */
  show(series, from, to) {
    this.#series = series;
    this.#from = from ?? Date.now();
    this.#to = Math.max(to ?? 0, this.#from + 60_000);
    this.#top = niceTop(Math.max(1, ...series.flatMap(({ points }) => points.map(([, score]) => score))));
    this.#drawLegend();
    this.#draw();
  }

  #x(at) {
    return MARGIN.left + ((at - this.#from) / (this.#to - this.#from)) * (this.#width - MARGIN.left - MARGIN.right);
  }

  #y(score) {
    return this.#height - MARGIN.bottom - (score / this.#top) * (this.#height - MARGIN.top - MARGIN.bottom);
  }

  #timeAt(clientX) {
    const { left } = this.#root.getBoundingClientRect();
    const share = (clientX - left - MARGIN.left) / (this.#width - MARGIN.left - MARGIN.right);
    return this.#from + Math.min(1, Math.max(0, share)) * (this.#to - this.#from);
  }

  #draw() {
    if (!this.#width || !this.#height || !this.#to) return;
    setAttribute(this.#svg, "viewBox", `0 0 ${this.#width} ${this.#height}`);
    this.#drawGrid();
    const gone = new Set(this.#paths.keys());
    // The leader's line is drawn last, above all others.
    for (const [index, { id, points }] of [...this.#series.entries()].reverse()) {
      gone.delete(id);
      let drawn = this.#paths.get(id);
      if (drawn === undefined) {
        drawn = { line: svg("path"), end: svg("circle", { r: "3.5" }), score: null };
        this.#paths.set(id, drawn);
      }
      this.#lines.append(drawn.line, drawn.end);
      const [, score] = points.at(-1);
      setAttribute(drawn.line, "d", this.#steps(points));
      setAttribute(drawn.line, "class", `series-${index}`);
      setAttribute(drawn.end, "class", `series-${index}${drawn.score !== null && drawn.score !== score ? " news" : ""}`);
      setAttribute(drawn.end, "cx", this.#x(this.#to).toFixed(1));
      setAttribute(drawn.end, "cy", this.#y(score).toFixed(1));
      drawn.score = score;
    }
    for (const id of gone) {
      const { line, end } = this.#paths.get(id);
      line.remove();
      end.remove();
      this.#paths.delete(id);
    }
    this.#outliers.replaceChildren(...this.#series.flatMap((series, index) => this.#marks(series, index)));
    this.#look(this.#at);
  }

  /** A triangle that points out of the chart, at each edge beyond which there are solves. */
  #marks({ name, outliers }, index) {
    const made = [];
    for (const early of [true, false]) {
      const those = outliers.filter((outlier) => outlier.early === early);
      if (!those.length) continue;
      const { at, score } = those.at(-1);
      const [x, y, out] = [this.#x(early ? this.#from : this.#to), this.#y(score), early ? -1 : 1];
      const mark = svg("path", { class: `series-${index}`, d: `M${x + out * 5} ${y - 5}v10l${out * 8} -5z` });
      const which = those.length === 1 ? formatWhole(at) : `the last ${formatWhole(at)}`;
      mark.append(svg("title", {}, `${name}: ${count(those.length, "solve", "solves")} dated outside of the time shown, ${which}`));
      made.push(mark);
    }
    return made;
  }

  #steps(points) {
    const parts = [`M${this.#x(this.#from).toFixed(1)} ${this.#y(0).toFixed(1)}`];
    for (const [at, score] of points) parts.push(`H${this.#x(at).toFixed(1)}V${this.#y(score).toFixed(1)}`);
    return `${parts.join("")}H${this.#x(this.#to).toFixed(1)}`;
  }

  #drawGrid() {
    const made = [];
    for (let part = 0; part <= 4; part++) {
      const score = (this.#top / 4) * part;
      const y = this.#y(score).toFixed(1);
      made.push(
        svg("line", { x1: MARGIN.left, x2: this.#width - MARGIN.right, y1: y, y2: y }),
        svg("text", { x: MARGIN.left - 8, y, dy: "0.32em", "text-anchor": "end" }, formatNumber(score)),
      );
    }
    const room = Math.max(1, Math.floor(this.#width / 110));
    const step = STEPS.find((each) => (this.#to - this.#from) / each <= room) ?? STEPS.at(-1);
    const label = step < STEPS[STEPS.length - 4] ? formatClock : formatDate;
    const zone = new Date(this.#from).getTimezoneOffset() * 60_000;
    for (let at = Math.ceil((this.#from - zone) / step) * step + zone; at <= this.#to; at += step) {
      const x = this.#x(at);
      if (x > this.#width - MARGIN.right - 16 || x < MARGIN.left + 16) continue;
      made.push(svg("text", { x: x.toFixed(1), y: this.#height - 4, "text-anchor": "middle" }, label(at)));
    }
    this.#grid.replaceChildren(...made);
  }

  #drawLegend() {
    while (this.#legend.children.length > this.#series.length) this.#legend.lastChild.remove();
    while (this.#legend.children.length < this.#series.length) {
      const index = this.#legend.children.length;
      const item = element("li", { class: `series-${index}` }, element("i"), element("bdi"), element("b"));
      item.addEventListener("pointerenter", () => setAttribute(this.#root, "data-focus", String(index)));
      item.addEventListener("pointerleave", () => setAttribute(this.#root, "data-focus", null));
      this.#legend.append(item);
    }
    for (const [index, { name, points }] of this.#series.entries()) {
      const item = this.#legend.children[index];
      setText(item.children[1], name);
      setText(item.children[2], formatNumber(points.at(-1)[1]));
    }
    const said = this.#series.map(({ name, points }) => `${name} ${points.at(-1)[1]}`).join(", ");
    setAttribute(this.#root, "aria-valuetext", said ? `now: ${said}` : "nothing solved yet");
  }

  #look(at) {
    this.#at = at;
    if (at === null || !this.#series.length) {
      this.#cursor.replaceChildren();
      this.#tip.hidden = true;
      return;
    }
    const x = this.#x(at);
    const values = this.#series
      .map(({ name, points }, index) => ({ name, index, score: points.findLast(([then]) => then <= at)?.[1] ?? 0 }))
      .sort((a, b) => b.score - a.score);
    this.#cursor.replaceChildren(
      svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: this.#height - MARGIN.bottom }),
      ...values.map(({ index, score }) => svg("circle", { class: `series-${index}`, cx: x, cy: this.#y(score), r: "4" })),
    );
    this.#tip.replaceChildren(
      element("time", {}, formatExact(at)),
      ...values.map(({ name, index, score }) =>
        element("p", { class: `series-${index}` }, element("i"), element("bdi", {}, name), element("b", {}, formatNumber(score))),
      ),
    );
    this.#tip.hidden = false;
    const left = x > this.#width / 2 ? x - this.#tip.offsetWidth - 14 : x + 14;
    this.#tip.style.transform = `translate(${Math.round(Math.max(0, left))}px, ${MARGIN.top}px)`;
  }

  #onKey(event) {
    const step = (this.#to - this.#from) / 60;
    const at = this.#at ?? this.#to;
    const wanted = {
      ArrowLeft: at - step,
      ArrowDown: at - step,
      ArrowRight: at + step,
      ArrowUp: at + step,
      Home: this.#from,
      End: this.#to,
      Escape: null,
    }[event.key];
    if (wanted === undefined) return;
    event.preventDefault();
    this.#look(wanted === null ? null : Math.min(this.#to, Math.max(this.#from, wanted)));
    if (this.#at !== null) {
      setAttribute(this.#root, "aria-valuenow", String(Math.round(((this.#at - this.#from) / (this.#to - this.#from)) * 100)));
      setAttribute(this.#root, "aria-valuetext", [...this.#tip.children].map((line) => line.innerText).join(", "));
    }
  }
}

/** The next number above that four parts divide nicely. */
function niceTop(most) {
  const unit = 10 ** Math.floor(Math.log10(most / 4));
  return [1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10].map((times) => 4 * Math.max(1, times * unit)).find((top) => top >= most);
}
