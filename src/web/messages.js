// Messages: received, typed, waiting for their echo, or failed; and the commands.

import { addLine, addPending, named, onSendAgain, removeLine } from "./log.js";
import { awayText, connection, current, findRoom, goTo, leave, notice, rooms, showRooms } from "./rooms.js";
import { changed } from "./session.js";
import { field, fitField, hint, size } from "./words.js";

const NAMES_SHOWN = 100; // in the answer to /list
const HELP = [
  "/join ROOM - join a room, or create it",
  "/leave [ROOM] - leave this room, or another",
  "/list [ROOM] - who is in this room, or in another",
  "/channels - all rooms",
  "/help - this list",
  "//TEXT - send text that begins with a slash",
].join("\n");

export function broadcast(frame) {
  const { From: from, Message: text, Room: name, Meta: meta, Event: event, Ts: time = Date.now() } = frame;
  const room = rooms.get(name);
  if (!room) {
    // A room left a moment ago, or v0's answer to `/list` of another room.
    if (meta && name && !frame.Seq && !connection.v1) notice(current, [text]);
    return;
  }
  if (meta) return notice(room, noticeParts(frame), time, event === "gap" ? "notice separator" : "notice");
  const own = from === connection.name;
  if (own) confirm(room, text);
  addLine(room, { from, text, parts: [text], time, own });
  changed();
  if (own || (room === current && !document.hidden)) return;
  room.unread += 1;
  showRooms();
}

/** Rendered from its fields, so that a name can't change the direction of the sentence. */
function noticeParts({ Event, User, Joined, Left, FromSeq, ToSeq, Message }) {
  if (Event === "join") return [named(User), " joined"];
  if (Event === "leave") return [named(User), " left"];
  if (Event === "presence") return [[Joined && `${Joined} joined`, Left && `${Left} left`].filter(Boolean).join(", ")];
  if (Event !== "gap") return [Message];
  const missed = ToSeq - FromSeq + 1;
  return [FromSeq ? `You missed ${missed} message${missed === 1 ? "" : "s"}.` : "Messages may be missing here."];
}

/** Our message has been echoed, perhaps on a later connection than the one that sent it. */
function confirm(room, text) {
  const isIt = (line) => line.text === text;
  const line = room.pending.find(isIt) ?? room.lines.find((each) => each.isDoubtful && isIt(each));
  if (!line) return;
  connection.confirmed(line.ref);
  removeLine(room, line);
}

function listed(names, count = names.length) {
  const shown = names.slice(0, NAMES_SHOWN);
  const parts = shown.flatMap((name, at) => [at ? ", " : "", named(name)]);
  return count > shown.length ? [...parts, ` and ${count - shown.length} more`] : parts;
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
  const text = connection.asSent(wanted);
  if (/^[\p{White_Space}\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}]*$/u.test(text)) return hint("The message is empty.");
  if (!connection.isConnected) return hint("Not sent: you're offline. Your text is kept.");
  if (!connection.isIn(room.name)) {
    connection.join(room.name);
    return hint(awayText(room));
  }
  const excess = connection.excess(room.name, text);
  if (excess > 0) return hint(`Too long by ${size(excess)} (the limit is ${size(connection.bytesMax)}).`);
  const line = { from: connection.name, text, typed, parts: [text], time: Date.now(), own: true };
  addPending(room, line);
  line.ref = connection.publish(room.name, text, (answer) => settled(room, line, answer));
  return true;
}

/** Handles the answer to a message, unless its echo came first. */
function settled(room, line, { Op, Code, Message, isTooLong }) {
  if (!room.pending.includes(line)) return;
  if (Op === "ok") return (line.isSure = true);
  removeLine(room, line);
  const { from, text, typed, parts, time, isSure } = line;
  const failed = { from, text, typed, parts, time, own: true };
  if (Op === "lost") {
    // A replay may still show it.
    failed.isDoubtful = !isTooLong;
    if (!isSure) failed.failure = isTooLong ? "Not sent: too long for this server." : "May not have been delivered.";
  } else if (Code === "too_many_requests") {
    const { Rate } = connection.limits;
    failed.failure = `Not sent, too fast${Rate ? ` (${Rate} a second)` : ""}.`;
    if (takeBack(room, typed)) return room === current && hint(failed.failure);
  } else failed.failure = `Not sent: ${Message}`;
  addLine(room, failed);
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

const COMMANDS = {
  "/join": (name) => (name ? goTo(name) : hint("Which room? /join ROOM")),
  "/leave": (name = current.name) => {
    const room = findRoom(name);
    if (!room) return hint(`You're not in ${name}.`);
    leave(room);
    return true;
  },
  "/list": (name = current.name) => ask(findRoom(name)?.name ?? name, "who", ({ Users, Count, Message }, tell) =>
    tell(Users ? [`${Count} here: `, ...listed(Users, Count)] : [Message])),
  "/channels": () => ask("", "channels", ({ Rooms, Count, Message }, tell) =>
    tell(Rooms ? [`${Count} room${Count === 1 ? "" : "s"}: `, ...listed(Rooms.map(({ Room }) => Room), Count)] : [Message])),
  "/help": () => {
    notice(current, [HELP]);
    return true;
  },
};

function obey(typed) {
  const [word, name, ...more] = typed.split(/\s+/);
  const act = COMMANDS[word.toLowerCase()];
  if (!act) return hint(`Unknown command ${word.slice(0, 40)}. Type /help for a list, or start with // to send it as text.`);
  if (more.length) return hint("A room name can't contain spaces.");
  return act(name);
}

function ask(name, what, told) {
  if (!connection.isConnected) return hint("Not sent: you're offline. Your text is kept.");
  const room = current;
  const answered = (answer) => told(answer, (parts) => notice(room, parts));
  if (name) connection[what](name, answered);
  else connection[what](answered);
  return true;
}
