// The log of the room on the screen: its rendered lines, and the scroll position. Text from others is only inserted as
// textContent, so it can never become markup.

import { drawText } from "./text.js";
import { $, element } from "./words.js";

const LINES_MAX = 500; // kept per room
const ROWS_MAX = 2 * LINES_MAX; // rendered while the user has scrolled up
const FOLLOW_MS = 180_000; // messages of one user closer together than this share a heading
const END_PX = 40; // this close to the end counts as at the end

const messages = $("messages");
const toEnd = $("to-end");
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
const rows = new WeakMap(); // the element of each rendered line

let shown = null; // the room on the screen
let atEnd = true; // the log is scrolled to its end, and follows it
let below = 0; // messages that arrived while scrolled up
let isBehind = false; // some lines are not rendered
let sendAgain = () => {};

/** Sets the callback for the "Send again" button of a line. */
export const onSendAgain = (act) => { sendAgain = act; };

/**
 * Adds a line to a room: `from` and `text` of a message, or `parts` (strings, and names made by `named`) and `kind` of a notice;
 * `time`; `isMention` if it names us; `isPending` until its echo arrives; `failure`, why a message was not sent.
 */
export function addLine(room, line) {
  line.kind ??= "message" + (line.own ? " own" : "") + (line.isMention ? " mention" : "") + (follows(line, room.lines.at(-1)) ? " follows" : "");
  room.lines.push(line);
  if (room.lines.length > LINES_MAX) room.lines.shift();
  if (room !== shown) return line;
  if (!atEnd && line.from && !line.own) showBelow(below + 1);
  // Rows on the screen stay; lines that don't fit are rendered on return to the end.
  if (!atEnd && messages.childElementCount >= ROWS_MAX) isBehind = true;
  else insert(line, shown.pending[0]);
  while (atEnd && messages.childElementCount - room.pending.length > LINES_MAX) messages.firstChild.remove();
  stayAtEnd();
  return line;
}

/** Adds a message of ours without an echo yet. It stays below all others. */
export function addPending(room, line) {
  line.isPending = true;
  line.kind = "message own pending" + (follows(line, room.pending.at(-1) ?? room.lines.at(-1)) ? " follows" : "");
  room.pending.push(line);
  if (room !== shown) return;
  goToEnd();
  insert(line);
}

/** Removes a line, wherever it is. */
export function removeLine(room, line) {
  for (const list of [room.lines, room.pending]) {
    const at = list.indexOf(line);
    if (at >= 0) list.splice(at, 1);
  }
  rows.get(line)?.remove();
}

/** Renders a room. `fromEnd`: scroll position in pixels from the end. */
export function showLog(room, fromEnd = 0) {
  shown = room;
  goToEnd(true);
  // Nothing new for screen readers.
  messages.ariaLive = "off";
  setTimeout(() => { messages.ariaLive = "polite"; }, 500);
  messages.ariaLabel = `Messages in ${room.name}`;
  if (!fromEnd) return;
  messages.scrollTop = messages.scrollHeight - fromEnd;
  atEnd = false;
}

/** Scroll position in pixels from the end; 0 at the end. */
export const placeFromEnd = () => (atEnd ? 0 : messages.scrollHeight - messages.scrollTop);

function goToEnd(redraw = isBehind) {
  atEnd = true;
  isBehind = false;
  showBelow(0);
  if (redraw) {
    messages.replaceChildren();
    for (const line of [...shown.lines, ...shown.pending]) insert(line);
  }
  stayAtEnd();
}

function showBelow(count) {
  below = count;
  toEnd.textContent = `↓ ${count} new`;
  toEnd.hidden = !count;
}

const follows = (line, last) => line.from && line.from === last?.from && line.time - last.time < FOLLOW_MS;

function insert(line, before) {
  const row = draw(line);
  rows.set(line, row);
  messages.insertBefore(row, (before && rows.get(before)) ?? null);
}

const drawPart = (part) => (typeof part === "string" ? part : element("bdi", {}, part.name));

function draw(line) {
  const { kind, from, text, parts, time, failure, isPending } = line;
  const row = element("div", { className: kind, title: new Date(time).toLocaleString() });
  if (from) row.append(element("bdi", { className: "from" }, from));
  row.append(element("time", {}, clock.format(time)));
  row.append(element("span", { className: "text", dir: "auto" }, ...(from ? drawText(text) : parts.map(drawPart))));
  if (isPending) row.ariaBusy = "true";
  if (failure) {
    const again = element("button", { type: "button", onclick: () => sendAgain(line) }, "Send again");
    row.append(element("span", { className: "failure" }, `${failure} `, again));
  }
  // A colour per name, the same for every user.
  const hue = [...(from ?? "")].reduce((hash, char) => (hash * 31 + char.codePointAt(0)) % 360, 7);
  row.style.setProperty("--hue", hue);
  return row;
}

/** Once per animation frame, since scrolling costs a layout. */
let scrollDue = false;
function stayAtEnd() {
  if (!atEnd || scrollDue) return;
  scrollDue = true;
  requestAnimationFrame(() => {
    scrollDue = false;
    if (!atEnd) return;
    messages.scrollTop = messages.scrollHeight;
    // From here the reader scrolls up, perhaps before the event of this.
    last = { top: messages.scrollTop, height: messages.clientHeight };
  });
}

let last = { top: 0, height: 0 };
messages.onscroll = () => {
  const { scrollTop: top, clientHeight: height, scrollHeight } = messages;
  if (scrollHeight - top - height < END_PX) {
    if (!atEnd) goToEnd();
  } else if (top < last.top && height === last.height) atEnd = false; // scrolled by the reader, not by a shrinking field
  last = { top, height };
};
// Keeps the last line visible when a phone's keyboard opens. The scroll event that this causes comes before the next
// frame.
new ResizeObserver(() => {
  stayAtEnd();
  requestAnimationFrame(() => { last.height = messages.clientHeight; });
}).observe(messages);
/** Scrolls by pages, from anywhere. */
export const scrollPages = (pages) => messages.scrollBy(0, pages * 0.9 * messages.clientHeight);

toEnd.onclick = () => {
  goToEnd();
  messages.focus();
};
