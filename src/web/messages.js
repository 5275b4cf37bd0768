// Messages: received, typed, waiting for their echo, or failed.

import { notify } from "./attention.js";
import { obey } from "./commands.js";
import { addLine, addPending, onSendAgain, removeLine } from "./log.js";
import { meet } from "./people.js";
import { awayText, connection, current, notice, offlineText, rooms, show, showRooms } from "./rooms.js";
import { changed } from "./session.js";
import { mentions } from "./text.js";
import { field, fitField, hint, listed, size } from "./words.js";

const FOLD_MS = 600_000; // joins and leaves in a row, closer together than this, share a line
const NAMES_FOLDED = 5; // named on such a line

export function message(name, { from, text, time, own }) {
  const room = rooms.get(name);
  if (!room) return; // left a moment ago
  meet(room, [from]);
  if (own) confirm(room, text);
  const isUnread = !own && (room !== current || document.hidden);
  if (isUnread && !room.unread) markNew(room, time);
  const isMention = !own && mentions(text, connection.name);
  addLine(room, { from, text, time, own, isMention });
  changed();
  if (!isUnread) return;
  room.unread += 1;
  room.isMentioned ||= isMention;
  if (isMention) notify(name, from, text, () => show(room));
  showRooms();
}

/** From here on, nothing has been read. */
function markNew(room, time) {
  if (room.mark) removeLine(room, room.mark);
  room.mark = addLine(room, { parts: ["New"], time, kind: "notice separator new" });
}

/** Joins and leaves. Those in a row are one line, and whoever comes back at once has not been away. */
export function presence(name, { joined, left, joinedCount, leftCount, time }) {
  const room = rooms.get(name);
  if (!room) return;
  meet(room, joined);
  const last = room.lines.at(-1);
  const isMore = last?.kind === "notice presence" && time - last.since < FOLD_MS;
  const line = { since: time, joined: [], left: [], others: [0, 0], ...(isMore && last), kind: "notice presence", time };
  line.joined = [...line.joined, ...joined.filter((user) => !line.left.includes(user))];
  line.left = [...line.left.filter((user) => !joined.includes(user)), ...left];
  line.others = [line.others[0] + joinedCount - joined.length, line.others[1] + leftCount - left.length];
  if (isMore) removeLine(room, last);
  const part = (names, others, verb) => (names.length + others ? [[...listed(names, names.length + others, NAMES_FOLDED), verb]] : []);
  const [came, went] = [part(line.joined, line.others[0], " joined"), part(line.left, line.others[1], " left")];
  line.parts = [...came, ...went].flatMap((each, at) => (at ? [", ", ...each] : each));
  if (line.parts.length) addLine(room, line);
  if (room === current) showRooms();
  changed();
}

export function gap(name, { missed }) {
  const room = rooms.get(name);
  // Without a number, it comes with the words about a reconnect.
  if (room && missed) notice(room, [`You missed ${missed} message${missed === 1 ? "" : "s"}.`], Date.now(), "notice separator");
}

/** Our message has been echoed, perhaps on a later connection than the one that sent it. */
function confirm(room, text) {
  const isIt = (line) => line.text === text;
  const line = room.pending.find(isIt) ?? room.lines.find((each) => each.isDoubtful && isIt(each));
  if (line) removeLine(room, line);
}

/** Sends or executes what was typed. Returns false, with a hint, if it can't. */
export function speak(typed) {
  hint("");
  if (!typed) return true;
  if (typed.startsWith("//")) return say(typed.slice(1), typed);
  // Indented text of several lines is code, even if it begins with a slash.
  const isCommand = typed.startsWith("/") || (typed.trim().startsWith("/") && !typed.includes("\n"));
  return isCommand ? obey(typed.trim()) : say(typed, typed);
}

function say(wanted, typed) {
  const room = current;
  const text = wanted.toWellFormed?.() ?? wanted;
  if (/^[\p{White_Space}\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}]*$/u.test(text)) return hint("The message is empty.");
  if (!connection.isConnected) return hint(offlineText());
  if (!connection.isIn(room.name)) {
    connection.join(room.name);
    return hint(awayText(room));
  }
  const excess = connection.excess(room.name, text);
  if (excess > 0) return hint(`Too long by ${size(excess)} (the limit is ${size(connection.limits.Message)}).`);
  const line = { from: connection.name, text, typed, time: Date.now(), own: true };
  addPending(room, line);
  connection.publish(room.name, text, (error) => error && failed(room, line, error));
  return true;
}

/** Handles a failure, unless the echo came first. */
function failed(room, line, { code, message: why }) {
  if (!room.pending.includes(line)) return;
  removeLine(room, line);
  const { from, text, typed, time } = line;
  const kept = { from, text, typed, time, own: true };
  if (code === "lost" || code === "unknown") {
    // A replay may still show it.
    Object.assign(kept, { isDoubtful: true, failure: "May not have been delivered." });
  } else if (code === "too_many_requests") {
    const { Rate } = connection.limits;
    kept.failure = `Not sent, too fast${Rate ? ` (${Rate} a second)` : ""}.`;
    if (takeBack(room, typed)) return room === current && hint(kept.failure);
  } else kept.failure = `Not sent: ${why}`;
  addLine(room, kept);
  changed();
}

/** Puts a text back into its field, if that is empty. */
function takeBack(room, typed) {
  if (room === current ? field.value : room.draft) return false;
  if (room === current) field.value = typed;
  room.draft = typed;
  fitField();
  changed();
  return true;
}

onSendAgain((line) => {
  const room = current;
  if (speak(line.typed)) removeLine(room, line);
  field.focus();
  changed();
});
