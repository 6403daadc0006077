/** Parsing `text/event-stream`. Pure. The counterpart of `client/events.py`. */

/** Bounds a line, and the data of an event. */
const MAX_CHARACTERS = 8 * 1024 * 1024;

/**
 * Parses `text/event-stream` from pieces of any size into events `{id, event, data}` and the server's `retry`, as the WHATWG HTML
 * standard (section 9.2.6) says. The caller decodes the text, which replaces invalid UTF-8 and removes a byte order mark.
 */
export class StreamParser {
  #line = ""; // the beginning of a line whose end has not been received
  #afterCr = false; // the last character was a CR: an LF that follows belongs to it
  #id = "";
  #event = "";
  #data = null;
  /** Milliseconds, as the server sent last; null before the first. */
  retry = null;

  feed(text) {
    if (text === "") return [];
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const pieces = text.split(/\r\n?|\n/);
    const rest = pieces.pop();
    const events = [];
    for (const piece of pieces) {
      const line = this.#extendLine(piece);
      this.#line = "";
      if (line !== "") this.#process(line);
      else if (this.#data !== null) events.push(this.#dispatch());
      else this.#event = "";
    }
    this.#line = this.#extendLine(rest);
    return events;
  }

  #extendLine(piece) {
    if (this.#line.length + piece.length > MAX_CHARACTERS) throw new RangeError(`a line of more than ${MAX_CHARACTERS} characters`);
    return this.#line + piece;
  }

  #process(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "data") {
      this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
      if (this.#data.length > MAX_CHARACTERS) throw new RangeError(`an event of more than ${MAX_CHARACTERS} characters`);
    } else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatch() {
    const event = { id: this.#id, event: this.#event || "message", data: this.#data };
    this.#event = "";
    this.#data = null;
    return event;
  }
}
