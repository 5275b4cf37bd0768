"use strict";
// The chat page. It speaks hi.v1: after a reconnect each room asks for what came behind the last it got. Where that does
// not get through, it speaks v0, in which commands are messages with a slash.
// Text from others reaches the page through textContent alone: it can never become markup.

const NAME_BYTES_MAX = 79;
const ROOM_BYTES_MAX = 64;
const FRAME_BYTES_MAX = 16_384; // the server's default
const LINES_MAX = 500; // of each room
const ANSWER_MS = 10_000; // a connection silent for so long after we spoke is dead
const GOOD_MS = 10_000; // one that lived so long was good: the backoff starts anew
const NAME_HELD_MS = 75_000; // our own dead connection may hold our name: two heartbeats and a margin
const FOLLOW_MS = 180_000; // messages so close together share the heading

const CLOSE_TEXT = {
  1012: "The server restarts.",
  4002: "The name is still held, probably by your lost connection.",
};
const CLOSE_FATAL = [1002, 1003, 1007, 1008, 1009, 4001, 4003]; // coming back would end the same way
const CLOSE_WAIT_S = { 1013: 10, 4102: 20 }; // at least

const $ = (id) => document.getElementById(id);
const field = $("message-input");
const messages = $("messages");

let me = ""; // the name joined with
let link = null; // the one connection, see connect()
let current = null; // the room on the screen; null while the join form shows
let atEnd = true; // the log is scrolled to its end, and stays there
const rooms = new Map(); // by name, in the order joined; they outlive connections
const retry = { at: 0, timer: 0, attempt: 0, heldSince: 0 }; // heldSince: refused for our own name since then
let v1 = true; // the dialect, until a handshake with it fails
let proven = false; // a handshake has succeeded
let resume = ""; // with this, our next connection takes our name over

/** What `read` returns; "" if it fails, as storage does where it is forbidden. */
function orNothing(read) {
  try {
    return read() ?? "";
  } catch {
    return "";
  }
}

const connected = () => link?.welcomed;
const waiting = () => $("status").dataset.state === "waiting";

// ---- The connection ----

/** An address beside this page's: a proxy may serve hi under a longer path. */
function beside(path, room) {
  const url = new URL(path, location.href);
  if (room) url.search = `?username=${encodeURIComponent(me)}&room=${encodeURIComponent(room)}`;
  return url;
}

/** Connects for a room, which in v0 the address names; the others that we were in follow. */
function connect(room) {
  hangUp();
  const url = beside("ws", room);
  if (v1) url.search = `?username=${encodeURIComponent(me)}&resume=${resume}`;
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(url, v1 ? ["hi.v1"] : []);
  link = {
    socket,
    room,
    since: Date.now(),
    opened: false, // the WebSocket stands
    welcomed: false, // the room has answered
    silence: 0, // timer that runs while an answer is due
    answers: [], // what to do with the answer to each request of v1, by its Ref
    joining: new Set(v1 ? [] : [room]), // rooms that have not answered yet
    unconfirmed: [], // our messages that have not come back yet
  };
  showState("connecting", "Connecting…");
  expectAnswer();
  // A socket that was replaced has no say any more.
  const ifOurs = (act) => (event) => link?.socket === socket && act(event);
  socket.onopen = ifOurs(() => { link.opened = proven = true; });
  socket.onclose = ifOurs((event) => lost(event.code, event.reason));
  socket.onmessage = ifOurs((event) => {
    clearTimeout(link.silence);
    link.silence = 0;
    receive(event.data);
  });
}

/** Scripts can't ping: a dead network shows when we spoke and nothing comes. */
function expectAnswer() {
  link.silence ||= setTimeout(() => lost(1006, ""), ANSWER_MS);
}

const frameOf = (Message, Room, more) => JSON.stringify({ From: me, Message, Room, Meta: false, ...more });

function send(text, room, more) {
  link.socket.send(frameOf(text, room, more));
  expectAnswer();
}

/** A request of v1. */
function ask(request, answered) {
  send(undefined, undefined, { ...request, Ref: link.answers.push(answered) - 1 });
}

function hangUp() {
  clearTimeout(retry.timer);
  if (!link) return;
  clearTimeout(link.silence);
  link.socket.close(1000);
  link = null;
  for (const room of rooms.values()) room.joined = false;
  if (current) showRooms();
}

function lost(code, reason) {
  const was = link;
  hangUp();
  if (!was.opened && !proven) {
    v1 = !v1;
    if (!v1) return connect(was.room);
  }
  const text = CLOSE_TEXT[code] ?? (reason ? `The server hung up: ${reason}.` : "The connection was lost.");
  if (!current) return explainRefusal(was, code, text);

  // If a replay shows that one was delivered, this goes away again.
  for (const { room, text: ours } of was.unconfirmed) {
    room.doubts.push({ text: ours, line: notice(room, `Perhaps not delivered: ${ours}`) });
  }
  if (was.welcomed && Date.now() - was.since > GOOD_MS) retry.attempt = 0;
  retry.heldSince = code === 4002 ? retry.heldSince || Date.now() : 0;
  if (CLOSE_FATAL.includes(code)) giveUp(text);
  else if (retry.heldSince && Date.now() - retry.heldSince > NAME_HELD_MS) giveUp(takenText(was.room));
  else comeBack(code, reason, text, was);
}

const takenText = (room) =>
  `The name ${me} is taken in the room ${room}. Pick another, or wait a minute if it was you.`;

/** On the join form nothing loops: the user reads and decides. */
async function explainRefusal(was, code, text) {
  showState("offline", "Not connected");
  if (code === 4002) return joinError(takenText(was.room));
  if (was.opened) return joinError(text);
  joinError("No connection. Looking for the reason…");
  const [why, detail] = await diagnose(was.room);
  if (!link && !current) joinError(why, detail);
}

/**
 * Why did the handshake fail? Scripts are not told, so ask by plain HTTP. If hi answers, something between drops upgrades.
 * Returns a sentence, the server's own words, and whether trying again is in vain.
 */
async function diagnose(room) {
  const { status, body } = await get(beside("ws", room));
  if (status === 400) return ["The server refuses this name or room.", body, true];
  if (status === 426 || (await get(beside("healthz"))).status === 200) {
    return ["The server answers, but a proxy on the way drops the WebSocket upgrade.", status === 426 && body];
  }
  if (status) return [`The chat's address answers with HTTP ${status}.`];
  return ["The server can't be reached: it is down, or your network is."];
}

async function get(url) {
  try {
    const answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(5000) });
    return { status: answer.status, body: await answer.text() };
  } catch {
    return {};
  }
}

// ---- Coming back ----

/** Waits as long as the server says, or a random time below a bound that doubles: not all shall return at once. */
async function comeBack(code, reason, text, was) {
  const least = CLOSE_WAIT_S[code] ?? 1;
  const most = Math.max(Math.min(30, 2 ** ++retry.attempt), 2 * least);
  const jittered = 1000 * (least + Math.random() * (most - least));
  const appointed = code === 1012 && Number(orNothing(() => JSON.parse(reason).retry_ms));
  retry.at = Date.now() + (appointed || jittered);
  showTrouble(text);
  showState("waiting", "Reconnecting");
  tick();
  // Not at the first failure: a server that just restarts takes the next attempt.
  if (was.opened || retry.attempt < 2) return;
  const { at } = retry;
  const [why, detail, final] = await diagnose(was.room);
  if (waiting() && retry.at === at) (final ? giveUp : showTrouble)(why, detail);
}

function tick() {
  clearTimeout(retry.timer);
  const ms = retry.at - Date.now();
  if (ms <= 0) return tryNow();
  $("countdown").textContent = ` in ${Math.ceil(ms / 1000)} s`;
  retry.timer = setTimeout(tick, ms % 1000 || 1000);
}

function tryNow() {
  if (!link) connect(current.name);
}

function giveUp(text, detail) {
  clearTimeout(retry.timer);
  showTrouble(text, detail);
  showState("offline", "Offline");
}

// ---- What arrives ----

function receive(data) {
  const frame = JSON.parse(data);
  if (frame.Op === "hello") return greeted(frame);
  if (frame.Op) return link.answers[frame.Ref]?.(frame);
  const { From: from, Message: text, Room: name, Meta: meta, Event: event, Ts: time = Date.now() } = frame;
  if (name === "") return receiveSystem(text);

  // In v0, whatever comes from a room that we asked for means that we are in.
  if (!v1 && link.joining.has(name)) joined(name);
  const room = rooms.get(name);
  if (!room) return; // left a moment ago
  if (frame.Seq) room.since = { Epoch: frame.Epoch, Seq: frame.Seq };
  if (meta) return notice(room, text, time, event === "gap" ? "notice separator" : "notice");

  const own = from === me;
  if (own) confirm(room, text);
  addLine(room, { from, text, time, own });
}

/** A message of ours has come back, perhaps to a later connection than the one that sent it. */
function confirm(room, text) {
  const isIt = (sent) => sent.text === text && (sent.room ?? room) === room;
  const first = (list) => list.splice(list.findIndex(isIt) >>> 0, 1)[0];
  const doubt = first(link.unconfirmed) ? null : first(room.doubts);
  if (!doubt) return;
  room.lines = room.lines.filter((line) => line !== doubt.line);
  if (room === current) drawAll();
}

function greeted({ Resume }) {
  resume = Resume;
  if (current) showConnected();
  joinAll();
}

function joinAll() {
  for (const name of new Set([link.room, ...rooms.keys()])) join(name);
}

function showConnected() {
  link.welcomed = true;
  retry.heldSince = 0;
  showState("connected", "Connected");
}

/** An answer of v0. Nobody can forge one: messages of users carry a room. */
function receiveSystem(text) {
  if (!current || v1) return; // the close code tells
  const [, left, notLeft] = /^Left channel (\S+)\.$|^Couldn't leave channel (\S+): /.exec(text) ?? [];
  const room = rooms.get(left ?? notLeft);
  if (room) forget(room);
  notice(current, text);
}

function joined(name, { Epoch, Seq, Recovered } = {}) {
  const known = rooms.has(name);
  const room = rooms.get(name) ?? addRoom(name);
  const isFirst = !link.welcomed;
  link.joining.delete(name);
  if (isFirst) showConnected();
  room.joined = true;
  room.since = { Epoch, Seq };
  const text = Recovered ? "reconnected" : "reconnected; messages may be missing here";
  if (known) notice(room, text, Date.now(), "notice separator");
  if (!current) openChat();
  if (known) showRooms();
  else show(room);
  if (isFirst && !v1) joinAll();
}

// ---- Rooms ----

/** Goes to a room, joined first if need be. False, with a hint, if that can't be. */
function goTo(name) {
  const room = rooms.get(name);
  if (roomProblem(name)) return hint(roomProblem(name));
  if (!room && !connected()) return hint("Not connected: you can join later.");
  if (room) show(room);
  if (connected() && !room?.joined) join(name);
  return true;
}

function join(name) {
  if (rooms.get(name)?.joined || link.joining.has(name)) return;
  link.joining.add(name);
  if (!v1) return send(`/join ${name}`, aJoinedRoom().name);
  ask({ Op: "join", Room: name, Since: rooms.get(name)?.since }, (answer) => {
    if (answer.Op === "ok") return joined(name, answer);
    link.joining.delete(name);
    if (current) notice(current, `${name} not joined: ${answer.Message}`);
    else lost(4002, "");
  });
}

/** Commands of v0 have to be sent to a room that exists. */
const aJoinedRoom = () => [current, ...rooms.values()].find((room) => room.joined);

function leave(room) {
  if (!connected() || !room.joined) forget(room);
  else if (v1) ask({ Op: "leave", Room: room.name }, () => forget(room));
  else send(`/leave ${room.name}`, room.name);
}

function forget(room) {
  if (rooms.size === 1) return location.reload(); // to the join form
  rooms.delete(room.name);
  room.item.remove();
  if (room === current) show([...rooms.values()].at(-1));
  if (!v1 && connected() && !aJoinedRoom()) connect(current.name);
  showRooms();
}

function addRoom(name) {
  const item = element("li");
  const button = element("button", { className: "room" });
  const cross = element("button", { className: "leave", ariaLabel: `Leave ${name}` }, "×");
  const badge = element("span", { className: "unread" });
  const room = { name, item, button, badge, joined: true, lines: [], doubts: [], unread: 0, draft: "" };
  item.dataset.room = name;
  button.onclick = () => show(room);
  cross.onclick = () => leave(room);
  button.append(element("bdi", {}, name), badge);
  item.append(button, cross);
  $("rooms").append(item);
  rooms.set(name, room);
  return room;
}

function showRooms() {
  let total = 0;
  for (const { name, item, button, badge, unread, joined } of rooms.values()) {
    total += unread;
    showCount(badge, unread);
    button.ariaLabel = name + (unread ? `, ${unread} unread` : "") + (joined ? "" : ", not joined");
    button.ariaCurrent = name === current.name;
    item.classList.toggle("away", !joined);
  }
  showCount($("unread-total"), total);
  $("rooms-toggle").ariaLabel = `Rooms, ${total} unread`;
  document.title = (document.hidden && total ? `(${total}) ` : "") + `${current.name} · hi`;
}

function showCount(badge, count) {
  badge.textContent = count > 999 ? "999+" : count;
  badge.hidden = !count;
}

const closeDrawer = () => $("sidebar").togglePopover?.(false);

function show(room) {
  const before = current;
  if (before) before.draft = field.value;
  current = room;
  field.value = room.draft;
  $("title").textContent = room.name;
  room.unread = 0;
  showRooms();
  room.item.scrollIntoView({ block: "nearest" });
  history.replaceState(null, "", "#" + encodeURIComponent(room.name)); // a reload comes back here

  // No news: not to be read out.
  messages.ariaLive = "off";
  setTimeout(() => { messages.ariaLive = "polite"; }, 500);
  messages.ariaLabel = `Messages in ${room.name}`;
  drawAll();
  keepAtEnd(true);

  closeDrawer();
  // On a phone, focus would open the keyboard over half of the log.
  const quietly = before && document.activeElement !== field && matchMedia("(hover: none)").matches;
  (quietly ? messages : field).focus();
}

// ---- Lines ----

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });

function element(tag, properties = {}, text = "") {
  return Object.assign(document.createElement(tag), properties, { textContent: text });
}

const drawAll = () => messages.replaceChildren(...current.lines.map(draw));

function notice(room, text, time = Date.now(), kind = "notice") {
  return addLine(room, { text, time, kind });
}

function addLine(room, line) {
  const last = room.lines.at(-1);
  const follows = line.from && line.from === last?.from && line.time - last.time < FOLLOW_MS;
  line.kind ??= "message" + (line.own ? " own" : "") + (follows ? " follows" : "");
  room.lines.push(line);
  if (room.lines.length > LINES_MAX) room.lines.shift();
  if (room === current) {
    messages.append(draw(line));
    // While somebody reads further up, the text must not jump.
    while (messages.childElementCount > (atEnd ? 1 : 2) * LINES_MAX) messages.firstChild.remove();
    keepAtEnd(line.own);
  }
  if (line.from && !line.own && (room !== current || document.hidden)) {
    room.unread += 1;
    showRooms();
  }
  return line;
}

function draw({ kind, from, text, time }) {
  const line = element("div", { className: kind, title: new Date(time).toLocaleString() });
  if (from) line.append(element("bdi", { className: "from" }, from));
  line.append(element("time", {}, clock.format(time)), element("span", { className: "text", dir: "auto" }, text));
  // A colour for each name, the same on every screen.
  const hue = [...(from ?? "")].reduce((hash, char) => (hash * 31 + char.codePointAt(0)) % 360, 7);
  line.style.setProperty("--hue", hue);
  return line;
}

/** Once a frame: scrolling costs a layout. */
let scrollDue = false;
function keepAtEnd(go) {
  if (go === true) atEnd = true;
  if (!atEnd || scrollDue) return;
  scrollDue = true;
  requestAnimationFrame(() => {
    scrollDue = false;
    if (atEnd) messages.scrollTop = messages.scrollHeight;
  });
}

let lastTop = 0;
messages.onscroll = () => {
  const top = messages.scrollTop;
  if (messages.scrollHeight - top - messages.clientHeight < 40) atEnd = true;
  else if (top < lastTop) atEnd = false; // upwards: the reader, not lines that came
  lastTop = top;
};
// A phone's keyboard opens: the last line stays in sight.
new ResizeObserver(keepAtEnd).observe(messages);

// ---- What the page says ----

function showState(state, text) {
  $("status").dataset.state = state;
  $("status-text").textContent = text;
  if (state !== "waiting") $("countdown").textContent = "";
  $("change-name").hidden = state !== "offline";
  if (state !== "connected") return;
  if ($("trouble").contains(document.activeElement)) field.focus();
  $("trouble").hidden = true;
  hint("");
}

function explain(box, text, detail) {
  box.replaceChildren(element("p", {}, text));
  if (detail) box.append(element("pre", {}, detail.trim()));
}

function showTrouble(text, detail) {
  explain($("trouble-text"), text, detail);
  $("trouble").hidden = false;
}

function joinError(text, detail, at = "join-name") {
  explain($("join-error"), text, detail);
  $("join-error").hidden = !text;
  $(at).focus();
}

/** A word below the message field. False, for callers that could not do as asked. */
function hint(text) {
  $("hint").textContent = text;
  return false;
}

// ---- What the user does ----

const bytes = (text) => new TextEncoder().encode(text).length;

/** What the server would refuse, said before. */
const nameProblem = (name) =>
  name.startsWith("#") ? "A name can't start with #." : textProblem("name", name, NAME_BYTES_MAX);

const roomProblem = (name) =>
  /\p{White_Space}/u.test(name) ? "A room name can't contain spaces." : textProblem("room name", name, ROOM_BYTES_MAX);

function textProblem(what, text, max) {
  if (!text) return `Enter a ${what}.`;
  if (/[\p{Cc}\p{Cs}]/u.test(text)) return `A ${what} can't contain control characters.`;
  return bytes(text) > max ? `This ${what} has ${bytes(text)} bytes; up to ${max} are allowed.` : "";
}

$("join-form").onsubmit = (event) => {
  event.preventDefault();
  if (link) return;
  me = $("join-name").value.trim();
  const room = $("join-room").value.trim() || "general";
  if (nameProblem(me)) return joinError(nameProblem(me));
  if (roomProblem(room)) return joinError(roomProblem(room), "", "join-room");
  joinError("");
  connect(room);
};

function openChat() {
  orNothing(() => localStorage.setItem("hi.name", me));
  $("my-name").textContent = me;
  $("welcome").hidden = true;
  $("chat").hidden = $("rooms-toggle").hidden = false;
}

$("message-form").onsubmit = (event) => {
  event.preventDefault();
  const text = field.value.trim();
  field.value = ""; // first, or a /join would stay behind as a draft
  if (text && !say(text)) field.value = text;
  field.focus();
};

/** Sends what was typed. False, with a hint, if that can't be. */
function say(text) {
  const [command, name, ...more] = text.split(/\s+/);
  if (command === "/join" && name && more.length === 0) return goTo(name);
  if (!connected()) return hint("Not connected yet: your text stays here.");
  if (!current.joined) {
    join(current.name);
    return hint("Not back in this room yet: your text stays here.");
  }
  if (bytes(frameOf(text, current.name)) > FRAME_BYTES_MAX) return hint("Too long: a message holds up to 16 KiB.");
  hint("");
  const room = current;
  if (["/leave", "/list", "/channels"].includes(command)) {
    notice(room, text);
    if (v1) obey(command, room, name);
    else send(text, room.name);
    return true;
  }
  const sent = { room, text };
  link.unconfirmed.push(sent);
  if (!v1) send(text, room.name);
  else ask({ Room: room.name, Message: text }, (answer) => {
    if (answer.Op === "ok") return;
    link.unconfirmed = link.unconfirmed.filter((other) => other !== sent);
    notice(room, `Not delivered: ${text} (${answer.Message})`);
  });
  return true;
}

/** A command, by v1. */
function obey(command, room, name = room.name) {
  const tell = (names, { Count, Message }) =>
    notice(room, names ? names.join(", ") + (Count > names.length ? `, … (${Count})` : "") : Message);
  if (command === "/list") ask({ Op: "who", Room: room.name }, (answer) => tell(answer.Users, answer));
  else if (command === "/channels") ask({ Op: "rooms" }, (answer) => tell(answer.Rooms?.map((each) => each.Room), answer));
  else if (rooms.has(name)) leave(rooms.get(name));
  else notice(room, `You are not in ${name}.`);
}

field.oninput = () => hint("");
field.onkeydown = (event) => {
  // An input method that composes takes Enter for itself (Safari: 229).
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  $("message-form").requestSubmit();
};

$("room-form").onsubmit = (event) => {
  event.preventDefault();
  if (goTo($("room-input").value.trim())) $("room-input").value = "";
  closeDrawer(); // what comes of it shows behind
};

$("try-now").onclick = tryNow;
$("change-name").onclick = $("sign-out").onclick = () => location.reload();

document.onkeydown = (event) => {
  if (!current) return;
  if (event.key === "Escape") field.focus();
  const step = event.altKey && { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const all = [...rooms.values()];
  show(all.at((all.indexOf(current) + step) % all.length));
};

document.onvisibilitychange = () => {
  if (!current) return;
  if (!document.hidden) current.unread = 0;
  showRooms();
  if (waiting()) tick(); // timers sleep in hidden pages
};
window.ononline = () => waiting() && tryNow();

$("join-name").value = orNothing(() => localStorage.getItem("hi.name"));
$("join-room").value = orNothing(() => decodeURIComponent(location.hash.slice(1))) || "general";
