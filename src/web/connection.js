// A connection to hi as one user. It speaks hi.v1, or v0 where v1 doesn't get through, notices a dead connection,
// reconnects, and asks each room for the messages after the last one it got. It knows nothing about the page: it
// reports to its handlers.

import { beside, diagnose } from "./diagnosis.js";

const PING_MS = 20_000; // after this long without input, check whether the connection still works
const PONG_MS = 8_000; // no answer within this time means that it doesn't
const PONG_QUICK_MS = 4_000; // the same when the user looks, or the network has changed
const ANSWER_MS = 10_000; // for all other requests, and for connecting
const STABLE_MS = 10_000; // a connection older than this was good: the backoff restarts
const NAME_HELD_MS = 75_000; // our own dead connection may hold our name this long: two heartbeats and a margin
const OWN_MS = 5_000; // after our attempt with v1 failed, the server may take this long to free our name
const REFUSED_MS = 2_000; // v0 doesn't say which message was too fast: the ones without an echo after this time
const MESSAGE_BYTES_MAX = 16_384; // until the server reports its own limit

const CLOSE_TEXT = {
  1009: "The server closed the connection: that message was too long.",
  1012: "The server is restarting.",
  4002: "Your name is still taken, probably by your lost connection.",
  4003: "This chat was opened in another window.",
};
const CLOSE_FATAL = [1002, 1003, 1007, 1008, 4001, 4003]; // a new connection would end the same way
const CLOSE_WAIT_S = { 1013: 10, 4102: 20 }; // at least
const V0_COMMAND = /^\/(join|leave|list|channels)(?= |$)/;

export const bytes = (text) => new TextEncoder().encode(text).length;

/** Folds a name: names that are equal to the server fold to the same text. */
export const fold = (name) => name.normalize("NFKC").toLowerCase();

/** The result of `read`; undefined if it throws. */
export function attempt(read) {
  try {
    return read();
  } catch {
    return undefined;
  }
}

export const takenText = (name, room) =>
  `The name ${name} is taken in the room ${room}. Pick another. If it's you on a lost connection, try again in a minute.`;

export class Connection {
  name = "";
  home = ""; // the room joined first: with v0, it is part of the address
  rooms = new Map(); // the rooms that we want to be in: name -> { since, state: "away", "joining" or "joined" }
  v1 = true; // whether to speak hi.v1, until a handshake with it fails
  resume = ""; // the secret with which our next connection takes over our name
  limits = {}; // from hello: Message (bytes), Rooms, Rate (messages per second); 0: no limit
  /**
   * Callbacks, set by the page. state(state, seconds) with "connecting", "connected", "waiting" or "offline"; trouble({ text, fix });
   * refused({ text, fix, isOfRoom }) if the first connection or its room fails; joined(name, answer), notJoined(name, text), left(name);
   * broadcast(frame); system(text), a v0 answer.
   */
  handlers = {};
  #keep = false; // whether to reconnect: not while the join form shows
  #proven = false; // a handshake has succeeded
  #fellBack = 0; // when v1 failed
  #learned = Infinity; // the server closed the connection for a message longer than this
  #link = null; // the current socket and its state, see #connect
  #retry = { at: 0, timer: 0, attempt: 0, heldSince: 0 }; // heldSince: when our own name was first refused
  #ref = 0; // the last Ref used

  constructor() {
    addEventListener("online", () => this.check());
    addEventListener("offline", () => this.check());
    document.addEventListener("visibilitychange", () => document.hidden || this.check());
  }

  get isConnected() {
    return Boolean(this.#link?.welcomed);
  }

  get isOpening() {
    return Boolean(this.#link);
  }

  isIn(name) {
    return this.rooms.get(name)?.state === "joined";
  }

  /** Connects and joins one room; called by the join form. */
  open(name, room) {
    Object.assign(this, { name, home: room, rooms: new Map([[room, { state: "away" }]]) });
    this.#connect();
  }

  /** Resumes a chat after a reload: `rooms` are pairs of a name and its `since`. */
  restore({ name, home, rooms, resume, v1 }) {
    this.rooms = new Map(rooms.map(([room, since]) => [room, { since, state: "away" }]));
    Object.assign(this, { name, home, resume, v1 });
    this.#keep = this.#proven = true;
    this.#connect();
  }

  #connect() {
    this.#hangUp();
    const room = this.rooms.has(this.home) ? this.home : this.rooms.keys().next().value;
    // Not URLSearchParams, which would write a space as "+". The diagnosis address has no secret, which logs could
    // show.
    const query = `?username=${encodeURIComponent(this.name)}`;
    const url = beside("ws" + query + (this.v1 ? `&resume=${this.resume}` : `&room=${encodeURIComponent(room)}`));
    const address = beside(`ws${query}&room=${encodeURIComponent(room)}`);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, this.v1 ? ["hi.v1"] : []);
    const link = {
      socket,
      address, // for the diagnosis
      room,
      born: Date.now(),
      opened: false, // the WebSocket is open
      welcomed: false, // hello has arrived; with v0, something from the room
      timer: 0, // fires at the next ping, or when an answer is overdue
      due: Infinity, // the deadline of an answer, if one is expected
      answers: new Map(), // callbacks for answers, by Ref
      sent: new Map(), // unanswered messages, by Ref
      probes: 0, // unanswered v0 pings
    };
    this.#link = link;
    this.handlers.state("connecting");
    this.#expect(ANSWER_MS);
    // Events of a replaced socket are ignored, and nothing waits for it to close.
    const ifOurs = (act) => (event) => this.#link === link && act(event);
    socket.onopen = ifOurs(() => { link.opened = this.#proven = true; });
    socket.onclose = ifOurs(({ code, reason }) => this.#lost(code, reason));
    socket.onmessage = ifOurs(({ data }) => {
      this.#heard();
      this.#receive(JSON.parse(data));
    });
    if (!this.v1) this.rooms.get(room).state = "joining";
  }

  // ---- Is the connection alive? ----

  /** The network has changed, or the page is visible again: check at once. Timers are throttled in hidden pages. */
  check() {
    const link = this.#link;
    if (link?.opened) this.#ping(PONG_QUICK_MS);
    else if (!link) this.retryNow();
    else if (this.#keep && Date.now() - link.born > PONG_QUICK_MS) this.#connect();
  }

  #heard() {
    const link = this.#link;
    clearTimeout(link.timer);
    link.due = Infinity;
    link.timer = setTimeout(() => this.#ping(PONG_MS), PING_MS);
  }

  /** Something has to arrive within this time. */
  #expect(ms) {
    const link = this.#link;
    if (Date.now() + ms >= link.due) return;
    clearTimeout(link.timer);
    link.due = Date.now() + ms;
    link.timer = setTimeout(() => this.#lost(1006, ""), ms);
  }

  #ping(ms) {
    // v0 has no ping, but answers a message to a nonexistent room.
    if (!this.v1) this.#link.probes += 1;
    this.#request(this.v1 ? { Op: "ping" } : { Room: "", Message: "ping" }, () => {}, ms);
  }

  // ---- Requests ----

  #frame(request, ref) {
    const v0 = { From: this.name, Message: request.Message, Room: request.Room, Meta: false };
    return JSON.stringify(this.v1 ? { ...request, Ref: ref } : v0);
  }

  #request(request, answered, ms = ANSWER_MS) {
    const ref = ++this.#ref;
    const frame = this.#frame(request, ref);
    if (this.v1) this.#link.answers.set(ref, answered);
    this.#link.socket.send(frame);
    this.#expect(ms);
    return { ref, frame };
  }

  /** The server's limit for a message, in bytes; Infinity if there is none. */
  get bytesMax() {
    return Math.min((this.limits.Message ?? MESSAGE_BYTES_MAX) || Infinity, this.#learned);
  }

  /** Bytes by which a message would be too long; 0 or less if it fits. */
  excess(Room, Message) {
    return bytes(this.#frame({ Room, Message }, this.#ref + 1)) - this.bytesMax;
  }

  /** The text as it will be echoed: invalid Unicode is replaced, and in v0 a leading space turns a command into text. */
  asSent(text) {
    const unicode = text.toWellFormed?.() ?? text;
    return this.v1 ? unicode : unicode.replace(V0_COMMAND, " $&");
  }

  /**
   * Sends a message to a room that we are in. `settled` gets the answer: `Op` is "ok", "err", or "lost" if the connection
   * ends before the echo arrives. When it arrives, call `confirmed` with the returned value.
   */
  publish(Room, Message, settled) {
    const { ref, frame } = this.#request({ Room, Message }, (answer) => {
      if (answer.Op !== "ok") this.confirmed(ref);
      settled(answer);
    });
    this.#link.sent.set(ref, { bytes: bytes(frame), settled });
    return ref;
  }

  confirmed(ref) {
    this.#link?.sent.delete(ref);
  }

  join(name) {
    const room = this.rooms.get(name) ?? { state: "away" };
    this.rooms.set(name, room);
    if (!this.isConnected || room.state !== "away") return; // all rooms are joined when hello arrives
    room.state = "joining";
    if (!this.v1) return this.#command(`/join ${name}`);
    this.#request({ Op: "join", Room: name, Since: room.since }, (answer) => {
      if (answer.Op === "ok") return this.#joined(name, answer);
      room.state = "away";
      if (this.#keep) this.handlers.notJoined(name, answer.Message);
      else this.#refused(name, answer);
    });
  }

  leave(name) {
    if (!this.isConnected || !this.isIn(name)) this.#left(name);
    else if (this.v1) this.#request({ Op: "leave", Room: name }, () => this.#left(name));
    else this.#command(`/leave ${name}`, name);
  }

  /** Asks for the users in a room. v0 answers with a sentence. */
  who(name, answered) {
    if (this.v1) this.#request({ Op: "who", Room: name }, answered);
    else this.#command("/list", name);
  }

  /** Asks for the rooms. v0 answers with a sentence. */
  channels(answered) {
    if (this.v1) this.#request({ Op: "rooms" }, answered);
    else this.#command("/channels");
  }

  /** v0 commands have to be sent to an existing room. */
  #command(Message, Room = this.#aJoinedRoom()) {
    this.#request({ Room, Message });
  }

  #aJoinedRoom() {
    return [this.home, ...this.rooms.keys()].find((name) => this.isIn(name));
  }

  // ---- What arrives ----

  #receive(frame) {
    if (frame.Op === "hello") return this.#greeted(frame);
    if (frame.Op) {
      const answered = this.#link.answers.get(frame.Ref);
      this.#link.answers.delete(frame.Ref);
      return answered?.(frame);
    }
    if (frame.Room === "" && !this.v1) return this.#system(frame.Message);
    // In v0, anything from a room that we asked for means that we have joined. The server may spell its name
    // differently.
    const asked = this.v1 || this.rooms.has(frame.Room) ? frame.Room : this.#joiningAs(frame.Room);
    if (!this.v1 && this.rooms.get(asked)?.state === "joining") this.#joined(asked, { Room: frame.Room });
    const room = this.rooms.get(frame.Room);
    if (room && frame.Seq) room.since = { Epoch: frame.Epoch, Seq: frame.Seq };
    this.handlers.broadcast(frame);
  }

  /** The room being joined whose name equals this one, ignoring case and width. */
  #joiningAs(name) {
    return [...this.rooms.keys()].find((each) => this.rooms.get(each).state === "joining" && fold(each) === fold(name));
  }

  #greeted({ User, Resume, Limits }) {
    this.name = User ?? this.name; // as the server spells it
    this.resume = Resume ?? "";
    this.limits = Limits ?? {};
    this.#link.welcomed = true;
    if (this.#keep) this.#connected();
    this.#joinAll();
  }

  #connected() {
    this.#link.welcomed = true;
    this.#retry.heldSince = 0;
    this.handlers.state("connected");
  }

  #joinAll() {
    for (const name of new Set([this.home, ...this.rooms.keys()])) this.join(name);
  }

  #joined(asked, { Room = asked, Epoch, Seq, Recovered, Users }) {
    const isFirst = !this.#keep || !this.#link.welcomed;
    const room = this.rooms.get(asked);
    if (!room) return this.#request({ Op: "leave", Room }, () => {}); // we have left it in the meantime
    // The server may spell the name differently.
    if (Room !== asked) this.rooms.delete(asked);
    if (this.home === asked) this.home = Room;
    this.rooms.set(Room, Object.assign(room, { state: "joined", since: Seq === undefined ? undefined : { Epoch, Seq } }));
    if (isFirst) this.#connected();
    this.#keep = true;
    this.handlers.joined(Room, { asked, Recovered, Users });
    if (isFirst && !this.v1) this.#joinAll();
  }

  #left(name) {
    this.rooms.delete(name);
    this.handlers.left(name);
    // In v0, a first room can only be joined through the address.
    if (!this.v1 && this.isConnected && this.rooms.size && !this.#aJoinedRoom()) this.#connect();
  }

  /** A v0 answer. It can't be forged: users' messages have a room. */
  #system(text) {
    const link = this.#link;
    if (link.probes && text === "room does not exist.") return (link.probes -= 1);
    const [, left, notLeft] = /^Left channel (\S+)\.$|^Couldn't leave channel (\S+): /.exec(text) ?? [];
    if (this.rooms.has(left ?? notLeft)) this.#left(left ?? notLeft);
    if (!this.#keep) return; // the close code tells the reason
    const doubtful = [...link.sent];
    if (!text.startsWith("Too fast:") || !doubtful.length) return this.handlers.system(text);
    setTimeout(() => {
      for (const [ref, { settled }] of doubtful) {
        if (link.sent.delete(ref)) settled({ Op: "err", Code: "too_many_requests", Message: text });
      }
    }, REFUSED_MS);
  }

  // ---- The end of a connection, and the next one ----

  #hangUp() {
    clearTimeout(this.#retry.timer);
    this.#retry.at = 0;
    const link = this.#link;
    if (!link) return;
    this.#link = null;
    clearTimeout(link.timer);
    link.socket.close(1000);
    for (const room of this.rooms.values()) room.state = "away";
    const longest = link.code === 1009 ? Math.max(0, ...[...link.sent.values()].map((sent) => sent.bytes)) : 0;
    if (longest) this.#learned = Math.min(this.#learned, longest - 1);
    for (const { bytes, settled } of link.sent.values()) settled({ Op: "lost", isTooLong: bytes === longest });
  }

  #lost(code, reason) {
    const link = Object.assign(this.#link, { code });
    this.#hangUp();
    if (!link.opened && !this.#proven) {
      this.v1 = !this.v1;
      this.#fellBack = Date.now();
      if (!this.v1) return this.#connect();
    }
    if (code === 4002 && !this.#keep && !this.v1 && Date.now() - this.#fellBack < OWN_MS) {
      setTimeout(() => this.#link || this.#connect(), 300);
      return;
    }
    const offline = navigator.onLine ? "The connection was lost." : "You're offline.";
    const text = CLOSE_TEXT[code] ?? (reason ? `The server closed the connection: ${reason}.` : offline);
    if (!this.#keep) return this.#explainRefusal(link, code, text);

    const { heldSince } = this.#retry;
    if (link.welcomed && Date.now() - link.born > STABLE_MS) this.#retry.attempt = 0;
    this.#retry.heldSince = code === 4002 ? heldSince || Date.now() : 0;
    if (CLOSE_FATAL.includes(code)) this.#giveUp({ text });
    else if (heldSince && code === 4002 && Date.now() - heldSince > NAME_HELD_MS) {
      this.#giveUp({ text: takenText(this.name, link.room) });
    } else this.#comeBack(link, code, reason, text);
  }

  /** The first room refused us. */
  #refused(name, { Code, Message }) {
    this.#hangUp();
    this.handlers.state("offline");
    const isTaken = Code === "name_taken";
    this.handlers.refused({ text: isTaken ? takenText(this.name, name) : Message, isOfRoom: !isTaken });
  }

  /** At the join form there are no retries: the user decides. */
  async #explainRefusal(link, code, text) {
    this.handlers.state("offline");
    if (code === 4002) return this.handlers.refused({ text: takenText(this.name, link.room) });
    if (link.opened) return this.handlers.refused({ text });
    this.handlers.refused({ text: "No connection. Looking for the reason…" });
    const found = await diagnose(link.address);
    if (!this.#link && !this.#keep) this.handlers.refused(found);
  }

  /** Waits as long as the server says, or a random time below a bound that doubles: clients must not all return at once. */
  async #comeBack(link, code, reason, text) {
    const retry = this.#retry;
    const least = CLOSE_WAIT_S[code] ?? 1;
    const most = Math.max(Math.min(30, 2 ** ++retry.attempt), 2 * least);
    const jittered = 1000 * (least + Math.random() * (most - least));
    const appointed = code === 1012 && attempt(() => Number(JSON.parse(reason).retry_ms));
    const at = (retry.at = Date.now() + (appointed || jittered));
    this.handlers.trouble({ text });
    this.#tick();
    // Not at the first failure: a restarting server will accept the next attempt.
    if (link.opened || retry.attempt < 2) return;
    const found = await diagnose(link.address);
    if (retry.at !== at) return;
    if (found.isFinal) this.#giveUp(found);
    else this.handlers.trouble(found);
  }

  #tick() {
    const ms = this.#retry.at - Date.now();
    if (ms <= 0) return this.retryNow();
    this.handlers.state("waiting", Math.ceil(ms / 1000));
    clearTimeout(this.#retry.timer);
    this.#retry.timer = setTimeout(() => this.#tick(), ms % 1000 || 1000);
  }

  /** Connects now instead of later; with `even`, also after giving up. */
  retryNow(even = false) {
    if (!this.#link && this.#keep && (even || this.#retry.at)) this.#connect();
  }

  #giveUp(found) {
    this.#hangUp();
    this.handlers.trouble(found);
    this.handlers.state("offline");
  }
}
