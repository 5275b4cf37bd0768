// The rooms of this page: the list, the current one, and its name in the address.

import { callBack } from "./attention.js";
import { Connection, attempt, bytes, fold } from "./connection.js";
import { addLine, showLog } from "./log.js";
import { meet, showPeople } from "./people.js";
import { changed, signOut } from "./session.js";
import { $, element, field, fitField, hint, named } from "./words.js";

const NAME_BYTES_MAX = 79;
const ROOM_BYTES_MAX = 64;

export const connection = new Connection();
export const rooms = new Map(); // by name, in the order joined; they survive reconnects
export let current = null; // the room on the screen; null while the join form shows
export const isTouch = matchMedia("(hover: none) and (pointer: coarse)");

const sidebar = $("sidebar");

export const findRoom = (name) => rooms.get(name) ?? [...rooms.values()].find((room) => fold(room.name) === fold(name));

/** Why the server would refuse a room name; empty if it wouldn't. */
export const roomProblem = (name) =>
  /\p{White_Space}/u.test(name) ? "A room name can't contain spaces." : textProblem("room name", name, ROOM_BYTES_MAX);

export const nameProblem = (name) =>
  name.startsWith("#") ? "A name can't start with #." : textProblem("name", name, NAME_BYTES_MAX);

function textProblem(what, text, max) {
  if (!text) return `Enter a ${what}.`;
  if (/[\p{Cc}\p{Cs}]/u.test(text)) return `A ${what} can't contain control characters.`;
  return bytes(text) > max ? `Too long: ${bytes(text)} of ${max} bytes.` : "";
}

/** Shows a room, joining it if necessary. Returns false, with a hint, if it can't. */
export function goTo(name) {
  const room = findRoom(name);
  const max = connection.limits.Rooms;
  if (roomProblem(name)) return hint(roomProblem(name));
  if (!room && !connection.isConnected && !connection.isReading) return hint("Not joined: you're offline.");
  if (!room && max && rooms.size >= max) return hint(`You're in ${max} rooms, the maximum. Leave one first.`);
  if (room) show(room);
  connection.join(room?.name ?? name);
  hint("");
  return true;
}

export function leave(room) {
  const draft = room === current ? field.value : room.draft;
  if (!draft.trim() || window.confirm("Leave the room and discard what you typed?")) connection.leave(room.name);
}

export function forget(name) {
  const room = rooms.get(name);
  if (!room) return;
  if (rooms.size === 1) return signOut();
  const hadFocus = room.item.contains(document.activeElement);
  const beside = room.item.nextElementSibling ?? room.item.previousElementSibling;
  rooms.delete(name);
  room.item.remove();
  if (room === current) show([...rooms.values()].at(-1));
  else if (hadFocus) beside.querySelector(".room").focus();
  showRooms();
  changed();
}

export function addRoom(name, kept) {
  const item = element("li");
  const label = element("bdi");
  const badge = element("span", { className: "unread" });
  const button = element("button", { className: "room" }, label, " ", badge);
  const cross = element("button", { className: "leave" }, "×");
  const room = { item, label, badge, button, cross, lines: [], pending: [], people: new Map(), unread: 0, draft: "", ...kept };
  button.onclick = () => show(room);
  cross.onclick = () => leave(room);
  item.append(button, cross);
  $("rooms").append(item);
  rename(room, name);
  return room;
}

/** Renames a room; the server may spell its name differently. */
function rename(room, name) {
  rooms.delete(room.name);
  room.name = room.item.dataset.room = room.label.textContent = name;
  room.cross.ariaLabel = `Leave ${name}`;
  rooms.set(name, room);
}

export function showRooms() {
  let total = 0;
  let isForUs = false;
  for (const { name, item, button, badge, unread, isMentioned } of rooms.values()) {
    isForUs ||= isMentioned;
    item.classList.toggle("mentioned", isMentioned);
    const isAway = !connection.isIn(name);
    total += unread;
    showCount(badge, unread);
    if (isMentioned) badge.textContent = `@ ${badge.textContent}`;
    button.ariaLabel = name + (unread ? ` ${badge.textContent} unread` : "") + (isAway ? ", not joined" : "");
    button.ariaCurrent = name === current.name;
    item.classList.toggle("away", isAway);
  }
  showCount($("unread-total"), total);
  $("rooms-toggle").ariaLabel = total ? `Rooms ${$("unread-total").textContent} unread` : "Rooms";
  callBack(current.name, total, isForUs);
  showPeople(current, connection);
}

/** Everything in the room on the screen has been read. */
export function read(room) {
  room.unread = 0;
  room.isMentioned = false;
}

export const closeDrawer = () => sidebar.togglePopover?.(false);

function showCount(badge, count) {
  badge.textContent = count > 999 ? "999+" : count;
  badge.hidden = !count;
}

export function show(room, fromEnd) {
  const before = current;
  if (before) before.draft = field.value;
  current = room;
  connection.home = room.name;
  if (room !== before) {
    field.value = room.draft;
    fitField();
    $("title").textContent = room.name;
    showAddress(before && !history.state?.drawer);
    $("link").textContent = address();
    showLog(room, fromEnd);
    hint("");
  }
  read(room);
  showRooms();
  room.item.scrollIntoView({ block: "nearest" });
  closeDrawer();
  // On a phone, focus would open the keyboard over half of the log.
  const quietly = before && document.activeElement !== field && isTouch.matches;
  (quietly ? $("messages") : field).focus();
  changed();
}

// ---- The address names the room, so that Back returns to the previous room, and a reload to this one ----

const address = () => new URL("#" + encodeURIComponent(current.name), location.href).href;

export function copyLink() {
  const copied = navigator.clipboard?.writeText(address()) ?? Promise.reject();
  copied.then(() => hint("Link copied."), () => hint(address())); // without TLS, there is no clipboard
}

export const roomOfAddress = () => attempt(() => decodeURIComponent(location.hash.slice(1))) ?? "";

let isClosing = false; // leaving the drawer's history entry takes a moment; onpopstate then updates the address

/** Writes the current room into the address. `isNew`: with a history entry, so that Back returns to the previous one. */
function showAddress(isNew) {
  if (isClosing) return;
  const address = "#" + encodeURIComponent(current.name);
  const write = isNew && address !== location.hash ? "pushState" : "replaceState";
  history[write]({ room: current.name }, "", address);
}

window.onpopstate = ({ state }) => {
  const wasClosing = isClosing;
  isClosing = false;
  if (!current || !state) return; // a link, see onhashchange
  if (wasClosing) {
    if (state.room !== current.name) showAddress(true);
    return showDrawer();
  }
  if (!state.drawer) closeDrawer();
  const room = rooms.get(state.room);
  if (room && room !== current) show(room);
  else showAddress();
};

window.onhashchange = () => {
  if (history.state) return;
  if (!current) $("join-room").value = roomOfAddress();
  else if (!goTo(roomOfAddress())) showAddress();
};

/** The open drawer has its own history entry, so that Back closes it. */
function showDrawer() {
  if (isClosing) return;
  const isOpen = sidebar.matches(":popover-open");
  if (isOpen && !history.state?.drawer) history.pushState({ room: current.name, drawer: true }, "");
  if (isOpen || !history.state?.drawer) return;
  isClosing = true;
  history.back();
}

sidebar.ontoggle = showDrawer;

export function notice(room, parts, time = Date.now(), kind = "notice") {
  addLine(room, { parts, time, kind });
  changed();
}

export function joined(name, { asked, recovered }) {
  const known = rooms.get(asked) ?? rooms.get(name);
  const room = known ?? addRoom(name);
  if (room.name !== name) rename(room, name);
  if (known && !recovered) notice(room, ["reconnected; messages may be missing here"], Date.now(), "notice separator");
  else if (known && !room.isRestored) notice(room, ["reconnected"], Date.now(), "notice separator");
  room.isRestored = false;
  if (room.refusal && room === current) hint("");
  room.refusal = "";
  if (!current) openChat();
  if (known) showRooms();
  else show(room);
  connection.who(name).then(({ Users }) => meet(room, Users), () => {});
  changed();
}

/** Why nothing can be sent without a connection. */
export const offlineText = () => `Not sent: you${connection.isReading ? " can only read here" : "'re offline"}. Your text is kept.`;

/** Why nothing can be sent to a room that we aren't in. */
export const awayText = ({ refusal }) =>
  `Not sent: ${refusal ? `you couldn't rejoin this room. ${refusal}` : "still rejoining this room."} Your text is kept.`;

export function notJoined(name, why) {
  const room = rooms.get(name);
  const isNews = room?.refusal !== why; // each new connection and each message retries
  if (room) {
    const isHinted = room === current && $("hint").textContent === awayText(room);
    room.refusal = why;
    if (isHinted) hint(awayText(room));
  }
  showAddress();
  if (isNews) notice(current, ["Can't join ", named(name), `: ${why}`]);
}

export function openChat(name = connection.name) {
  attempt(() => localStorage.setItem("hi.name", name));
  $("my-name").textContent = name;
  $("welcome").hidden = true;
  for (const id of ["chat", "rooms-toggle", "title", "copy-link"]) $(id).hidden = false;
}
