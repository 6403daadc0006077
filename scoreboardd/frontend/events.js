/** Parsing `text/event-stream`. Pure. The counterpart of `client/events.py`. */

/** Characters that a line, and the data of an event, may have. */
const MOST = 8 * 1024 * 1024;

/**
 * `text/event-stream`, fed in any pieces, to events `{id, event, data}` and what the server says of `retry`, as the WHATWG
 * HTML standard (section 9.2.6) interprets it. The text is decoded before, which replaces what is not UTF-8 and removes a byte
 * order mark.
 */
export class StreamParser {
  #line = ""; // the beginning of one whose end has not come
  #afterCr = false; // the last character was a CR: an LF that comes now belongs to it
  #id = "";
  #event = "";
  #data = null;
  /** Milliseconds, as last said; null until then. */
  retry = null;

  feed(text) {
    if (text === "") return [];
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const pieces = text.split(/\r\n?|\n/);
    const rest = pieces.pop();
    const events = [];
    for (const piece of pieces) {
      const line = this.#grown(piece);
      this.#line = "";
      if (line !== "") this.#process(line);
      else if (this.#data !== null) events.push(this.#dispatched());
      else this.#event = "";
    }
    this.#line = this.#grown(rest);
    return events;
  }

  #grown(piece) {
    if (this.#line.length + piece.length > MOST) throw new RangeError(`a line of more than ${MOST} characters`);
    return this.#line + piece;
  }

  #process(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") {
      this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
      if (this.#data.length > MOST) throw new RangeError(`an event of more than ${MOST} characters`);
    } else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatched() {
    const event = { id: this.#id, event: this.#event || "message", data: this.#data };
    this.#event = "";
    this.#data = null;
    return event;
  }
}
