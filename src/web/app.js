// The chat page: connects the join form, the rooms and the session. It is built on hi.js.

import { attempt } from "./connection.js";
import { remember } from "./keys.js";
import { placeFromEnd } from "./log.js";
import { gap, message, presence, speak } from "./messages.js";
import * as chat from "./rooms.js";
import { changed, isElsewhere, keepSession, loadSession, signOut } from "./session.js";
import { $, field, fitField, joinError, showState, showTrouble } from "./words.js";

const { connection, rooms } = chat;

connection.handlers = {
  state(state, seconds) {
    showState(state, seconds);
    if (chat.current) chat.showRooms();
  },
  trouble: showTrouble,
  refused: (found) => {
    if (found.needsToken) $("token-field").hidden = false;
    joinError(found, found.needsToken ? "join-token" : found.isOfRoom ? "join-room" : "join-name");
  },
  joined: chat.joined,
  notJoined: chat.notJoined,
  left: chat.forget,
  message,
  presence,
  gap,
  notice: (name, { text, time }) => rooms.has(name) && chat.notice(rooms.get(name), [text], time),
};

// ---- Joining ----

$("join-form").onsubmit = (event) => {
  event.preventDefault();
  if (connection.isOpening) return;
  const name = $("join-name").value.trim();
  const room = $("join-room").value.trim() || "general";
  const token = $("join-token").value.trim();
  if (!token && chat.nameProblem(name)) return joinError({ text: chat.nameProblem(name) });
  if (chat.roomProblem(room)) return joinError({ text: chat.roomProblem(room) }, "join-room");
  joinError({ text: "" });
  connection.open(name, room, token);
};

// ---- Speaking ----

$("message-form").onsubmit = (event) => {
  event.preventDefault();
  const typed = field.value;
  field.value = ""; // first, or a /join would be kept as a draft
  if (speak(withoutBlankLines(typed))) remember(typed);
  else field.value = typed;
  fitField();
  field.focus();
  changed();
};

/** Without blank lines at the ends; the first line keeps its indentation. */
function withoutBlankLines(text) {
  const lines = text.split("\n");
  while (lines.length && !lines[0].trim()) lines.shift();
  while (lines.length && !lines.at(-1).trim()) lines.pop();
  return lines.join("\n");
}

// ---- The rest ----

$("room-form").onsubmit = (event) => {
  event.preventDefault();
  if (chat.goTo($("room-input").value.trim())) $("room-input").value = "";
  chat.closeDrawer(); // the result shows behind it
};

$("copy-link").onclick = chat.copyLink;
$("try-now").onclick = () => connection.retryNow();
$("change-name").onclick = signOut;
$("sign-out").onclick = () => {
  const drafts = [field.value, ...[...rooms.values()].map((room) => room !== chat.current && room.draft)];
  if (!drafts.some((draft) => draft && draft.trim()) || window.confirm("Sign out and discard what you typed?")) signOut();
};

document.addEventListener("visibilitychange", () => {
  if (!chat.current) return;
  if (!document.hidden) chat.read(chat.current);
  chat.showRooms();
});

// ---- What survives a reload ----

keepSession(() => {
  if (!chat.current || !connection.isOpening || connection.isReading) return null;
  chat.current.draft = field.value;
  const { name, resume, v1, token } = connection;
  const kept = ({ name, unread, draft, lines, pending, since }) => {
    const doubtful = pending.map((line) => ({ ...line, failure: "May not have been delivered.", isDoubtful: true }));
    const read = lines.filter(({ kind }) => !kind.endsWith(" new"));
    return { name, unread, draft, lines: [...read, ...doubtful], since: connection.room(name)?.position ?? since };
  };
  return { name, resume, v1, token, home: chat.current.name, fromEnd: placeFromEnd(), rooms: [...rooms.values()].map(kept) };
});

async function restore(saved) {
  for (const { name, unread, draft, lines, since } of saved.rooms) chat.addRoom(name, { unread, draft, lines, since, isRestored: true });
  const wanted = chat.roomOfAddress();
  chat.openChat(saved.name);
  showState("connecting");
  const room = chat.findRoom(wanted) ?? rooms.get(saved.home);
  chat.show(room, room.name === saved.home ? saved.fromEnd : 0);
  if (await isElsewhere(saved)) return signOut();
  connection.restore({ ...saved, home: chat.current.name, rooms: saved.rooms.map(({ name, since }) => [name, since]) });
  if (wanted && !chat.roomProblem(wanted) && !chat.findRoom(wanted)) connection.join(wanted);
}

$("unloaded").remove();
$("join-button").disabled = false;
field.enterKeyHint = chat.isTouch.matches ? "enter" : "send";
$("join-name").value = attempt(() => localStorage.getItem("hi.name")) ?? "";
$("join-room").value = chat.roomOfAddress() || "general";
const saved = loadSession();
if (saved) restore(saved);
