// The chat page: connects the join form, the rooms, the keyboard and the session. The protocol is in connection.js.

import { attempt } from "./connection.js";
import { placeFromEnd } from "./log.js";
import { broadcast, speak } from "./messages.js";
import * as chat from "./rooms.js";
import { changed, isElsewhere, keepSession, loadSession, signOut } from "./session.js";
import { $, field, fitField, hint, joinError, showState, showTrouble } from "./words.js";

const NAME_BYTES_MAX = 79;
const { connection, rooms } = chat;

connection.handlers = {
  state(state, seconds) {
    showState(state, seconds);
    if (chat.current) chat.showRooms();
  },
  trouble: showTrouble,
  refused: (found) => joinError(found, found.isOfRoom ? "join-room" : "join-name"),
  joined: chat.joined,
  notJoined: chat.notJoined,
  left: chat.forget,
  broadcast,
  system: (text) => chat.notice(chat.current, [text]),
};

// ---- Joining ----

const nameProblem = (name) =>
  name.startsWith("#") ? "A name can't start with #." : chat.textProblem("name", name, NAME_BYTES_MAX);

$("join-form").onsubmit = (event) => {
  event.preventDefault();
  if (connection.isOpening) return;
  const name = $("join-name").value.trim();
  const room = $("join-room").value.trim() || "general";
  if (nameProblem(name)) return joinError({ text: nameProblem(name) });
  if (chat.roomProblem(room)) return joinError({ text: chat.roomProblem(room) }, "join-room");
  joinError({ text: "" });
  connection.open(name, room);
};

// ---- Speaking ----

$("message-form").onsubmit = (event) => {
  event.preventDefault();
  const typed = field.value;
  field.value = ""; // first, or a /join would be kept as a draft
  if (!speak(withoutBlankLines(typed))) field.value = typed;
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

// ---- The keyboard and the rest ----

field.oninput = () => {
  hint("");
  fitField();
  changed();
};
field.onkeydown = (event) => {
  // While an input method composes, Enter belongs to it (Safari: 229); on a touch keyboard, it is the only way to a new
  // line.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229 || chat.isTouch.matches) return;
  event.preventDefault();
  $("message-form").requestSubmit();
};

$("room-form").onsubmit = (event) => {
  event.preventDefault();
  if (chat.goTo($("room-input").value.trim())) $("room-input").value = "";
  chat.closeDrawer(); // the result shows behind it
};

$("try-now").onclick = () => connection.retryNow(true);
$("change-name").onclick = signOut;
$("sign-out").onclick = () => {
  const drafts = [field.value, ...[...rooms.values()].map((room) => room !== chat.current && room.draft)];
  if (!drafts.some((draft) => draft && draft.trim()) || window.confirm("Sign out and discard what you typed?")) signOut();
};

document.onkeydown = (event) => {
  if (!chat.current) return;
  if (event.key === "Escape") field.focus();
  const step = event.altKey && { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const all = [...rooms.values()];
  chat.show(all.at((all.indexOf(chat.current) + step) % all.length));
};

document.addEventListener("visibilitychange", () => {
  if (!chat.current) return;
  if (!document.hidden) chat.current.unread = 0;
  chat.showRooms();
});

// ---- What survives a reload ----

keepSession(() => {
  if (!chat.current) return null;
  chat.current.draft = field.value;
  const { name, resume, v1 } = connection;
  const kept = ({ name, unread, draft, lines, pending }) => {
    const doubtful = pending.map((line) => ({ ...line, failure: "May not have been delivered.", isDoubtful: true }));
    return { name, unread, draft, lines: [...lines, ...doubtful], since: connection.rooms.get(name)?.since };
  };
  return { name, resume, v1, home: chat.current.name, fromEnd: placeFromEnd(), rooms: [...rooms.values()].map(kept) };
});

async function restore(saved) {
  connection.name = saved.name;
  for (const { name, unread, draft, lines } of saved.rooms) chat.addRoom(name, { unread, draft, lines, isRestored: true });
  const wanted = chat.roomOfAddress();
  chat.openChat();
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
