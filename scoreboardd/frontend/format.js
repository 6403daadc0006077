/** Numbers and times as people here write them, and elements. */

const number = new Intl.NumberFormat();
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

export const formatNumber = (value) => number.format(value);
export const formatClock = (at) => clock.format(at);
export const formatExact = (at) => exact.format(at);
export const formatWhole = (at) => whole.format(at);

export const formatDate = (at) => date.format(at);

/** Milliseconds. */
const FAR = 300 * 24 * 3_600_000;

/** The time of day; with the day of the week unless it is today; the date alone if it is about a year away, or more. */
export function formatMoment(at) {
  if (Math.abs(at - Date.now()) > FAR) return date.format(at);
  return new Date(at).toDateString() === new Date().toDateString() ? clock.format(at) : day.format(at);
}

export const count = (value, one, many) => `${formatNumber(value)} ${value === 1 ? one : many}`;

/** An element with attributes and children. Text is text: nothing here, or elsewhere in the page, parses markup. */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Set only if it differs, so that nothing is laid out anew for nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}
