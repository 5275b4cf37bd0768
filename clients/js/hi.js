// hi.js: a client of hi for browsers, workers, Node, Deno and Bun. One module without dependencies; README.md shows how to
// use it, hi.d.ts has the types.
//
// A chat is one WebSocket that speaks hi.v1. It notices a dead path, reconnects, and asks each room for the messages after
// the last one it got: every message comes once and in order, or a "gap" says what is missing. Where WebSockets don't get
// through, rooms are read as server-sent events.

const PING_MS = 20_000; // after this long without input, check whether the connection still works
const PONG_MS = 8_000; // no answer within this time means that it doesn't
const PONG_QUICK_MS = 4_000; // the same when the user looks, or the network has changed
const ANSWER_MS = 10_000; // for all other requests, and for connecting
const STABLE_MS = 10_000; // a connection older than this was good: the backoff starts again
const BACKOFF_S_MAX = 30;
const REJOIN_MS = 10_000; // a room that was refused after a reconnect is asked for again after this time
const DOUBT_MS = 5_000; // how long after a recovery a lost connection's message may still show up
const STREAM_SILENCE_MS = 60_000; // a stream has a heartbeat each 25 s, unless the operator has changed that
const BUFFERED_BYTES_MAX = 1 << 20; // what may wait in the WebSocket
const UNOPENED_MAX = 2; // handshakes that fail in a row before rooms are read as server-sent events
const RENEW_S = 30; // how long before it expires a token is replaced
const TIMER_MS_MAX = 2 ** 31 - 1; // longer timers end at once
const LEAST_S = { 1013: 10, 4102: 20 }; // wait at least this long after these close codes
const FATAL = [1002, 1003, 1007, 1008, 1009, 4001, 4003]; // a new connection would end in the same way
const REASONS = {
  1009: "The server closed the connection: that message was too long.",
  1012: "The server is restarting.",
  4003: "This chat was opened in another window.",
};

/** Why a request failed. `code` is the server's, or one of `offline`, `unknown`, `busy`, `read_only`, `too_large`, `closed`. */
export class HiError extends Error {
  constructor(code, message, temporary = false) {
    super(message);
    Object.assign(this, { name: "HiError", code, temporary });
  }
}

const offline = () => new HiError("offline", "Not connected.", true);
const closed = () => new HiError("closed", "The connection was closed.");
const uncertain = () =>
  new HiError("unknown", "The connection was lost before the answer: the message may or may not have been delivered.");

/** Folds a name: names that are equal to the server fold to the same text. */
export const fold = (name) => name.normalize("NFKC").toLowerCase();

const bytes = (text) => new TextEncoder().encode(text).length;
const wellFormed = (text) => text.toWellFormed?.() ?? text;

/** The address of hi without the `ws` at its end: other addresses are relative to it. */
function root(address) {
  const url = new URL(address, globalThis.location?.href);
  const pathname = url.pathname.replace(/(^|\/)ws$/, "$1").replace(/\/?$/, "/");
  return Object.assign(url, { protocol: url.protocol.replace("ws", "http"), pathname, search: "", hash: "" });
}

const EMIT = Symbol("emit");

class Emitter {
  #listeners = new Map();

  /** Calls `listener` for each event of this type; returns a function that ends this. */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  [EMIT](type, event) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(event);
      } catch (error) {
        setTimeout(() => { throw error; }); // the listener's fault, and not the connection's
      }
    }
  }
}

/** How long to wait before the next attempt: a random time below a bound that doubles, so that clients don't all return at once. */
function backoffMs(attempt, least = 1) {
  const most = Math.max(Math.min(BACKOFF_S_MAX, 2 ** attempt), 2 * least);
  return 1000 * (least + Math.random() * (most - least));
}

function appointment(code, reason) {
  try {
    return code === 1012 ? Number(JSON.parse(reason).retry_ms) || 0 : 0;
  } catch {
    return 0;
  }
}

/** One WebSocket, made again whenever it is lost. */
class Line {
  state = "closed";
  unopened = 0; // handshakes that have failed since the last one that succeeded
  #options;
  #handlers; // url(), protocols, opened(), received(data), ping(ms), lost(), told(event)
  #link = null; // the socket and what is known about it
  #attempt = 0;
  #timer = 0;
  #unwatch = () => {};

  constructor(options, handlers) {
    this.#options = options;
    this.#handlers = handlers;
    if (!(options.WebSocket ?? globalThis.WebSocket)) {
      throw new HiError("closed", "There is no WebSocket here. Pass one as the option WebSocket: for Node 20, `import WebSocket from \"ws\"`.");
    }
  }

  get isReady() {
    return this.state === "connected";
  }

  async connect() {
    this.#drop();
    this.#watch();
    const link = { born: Date.now(), isOpen: false, socket: null, timer: 0, due: Infinity };
    this.#link = link;
    this.#tell({ state: "connecting" });
    this.expect(ANSWER_MS);
    const ifOurs = (act) => (event) => this.#link === link && act(event); // a socket that was replaced has no say
    try {
      const token = await this.#options.token?.();
      if (this.#link !== link) return;
      const { url, protocols, opened, received } = this.#handlers;
      const socket = new (this.#options.WebSocket ?? WebSocket)(url(), [...protocols, ...(token ? [`hi.bearer.${token}`] : [])]);
      socket.binaryType = "arraybuffer";
      socket.onopen = ifOurs(() => {
        link.isOpen = true;
        this.unopened = 0;
        opened();
      });
      socket.onmessage = ifOurs(({ data }) => {
        this.#heard();
        received(data);
      });
      socket.onclose = ifOurs(({ code, reason }) => this.#lost(code, reason));
      socket.onerror = () => {}; // a close follows
      link.socket = socket;
    } catch (error) {
      if (this.#link === link) this.#lost(1006, error.message);
    }
  }

  /** The connection is good for use. */
  ready() {
    this.#tell({ state: "connected" });
  }

  send(data) {
    this.#link.socket.send(data);
  }

  /** Throws unless something can be sent now. */
  checkRoom() {
    if (!this.isReady) throw offline();
    if (this.#link.socket.bufferedAmount > BUFFERED_BYTES_MAX) throw new HiError("busy", "Too much is waiting to be sent.", true);
  }

  #heard() {
    clearTimeout(this.#link.timer);
    this.#link.due = Infinity;
    const { ping } = this.#handlers;
    if (ping) this.#link.timer = setTimeout(ping, PING_MS, PONG_MS);
  }

  /** Something has to arrive within this time. */
  expect(ms) {
    const link = this.#link;
    if (Date.now() + ms >= link.due) return;
    clearTimeout(link.timer);
    link.due = Date.now() + ms;
    link.timer = setTimeout(() => this.#lost(1006, ""), ms);
  }

  /** The network has changed, or the page is visible again: timers are throttled in hidden pages. */
  check() {
    const link = this.#link;
    if (this.state === "waiting") this.connect();
    else if (this.isReady) this.#handlers.ping?.(PONG_QUICK_MS);
    else if (link && Date.now() - link.born > PONG_QUICK_MS) this.connect();
  }

  #watch() {
    this.#unwatch();
    const check = () => this.check();
    const seen = () => document.hidden || this.check();
    for (const event of ["online", "offline"]) globalThis.addEventListener?.(event, check);
    globalThis.document?.addEventListener("visibilitychange", seen);
    this.#unwatch = () => {
      for (const event of ["online", "offline"]) globalThis.removeEventListener?.(event, check);
      globalThis.document?.removeEventListener("visibilitychange", seen);
    };
  }

  #drop() {
    clearTimeout(this.#timer);
    const link = this.#link;
    if (!link) return;
    this.#link = null;
    this.state = "waiting"; // for listeners that act at once
    clearTimeout(link.timer);
    link.socket?.close(1000); // nothing waits for its end, which may never come
    this.#handlers.lost();
  }

  #lost(code, reason) {
    const link = this.#link;
    const wasGood = this.isReady && Date.now() - link.born > STABLE_MS;
    this.#drop();
    if (!link.isOpen) this.unopened += 1;
    this.#attempt = wasGood ? 1 : this.#attempt + 1;
    const lost = globalThis.navigator?.onLine === false ? "You're offline." : "The connection was lost.";
    const text = REASONS[code] ?? (reason ? `The server closed the connection: ${reason}.` : lost);
    const told = { code, reason: text, wasOpen: link.isOpen, attempt: this.#attempt };
    if (FATAL.includes(code) && !(code === 4001 && this.#options.token)) return this.close(told);
    const ms = appointment(code, reason) || backoffMs(this.#attempt, LEAST_S[code]);
    this.#timer = setTimeout(() => this.connect(), ms);
    this.#tell({ state: "waiting", retryAt: Date.now() + ms, ...told });
  }

  close(told = {}) {
    this.#unwatch();
    this.#drop();
    this.#tell({ state: "closed", ...told });
  }

  #tell(event) {
    this.state = event.state;
    this.#handlers.told(event);
  }
}

/** A room of a chat. */
export class Room extends Emitter {
  /** `joining`, `joined`, `away` (the connection is lost, or the server refuses), or `left`. */
  state = "joining";
  users = 0;
  position; // of the last message: { Epoch, Seq }
  #chat;
  #settle; // resolves or rejects `joined`
  sending = new Set(); // messages without an answer
  #doubtful = []; // those whose connection was lost before it
  #doubtTimer = 0;

  constructor(chat, name, since) {
    super();
    Object.assign(this, { name, position: since, wasJoined: Boolean(since) });
    this.#chat = chat;
    /** Resolves once the room is joined for the first time; rejects if it is refused. */
    this.joined = new Promise((resolve, reject) => { this.#settle = { resolve, reject }; });
    this.joined.catch(() => {});
  }

  /** Sends a text. Resolves with its { seq, epoch }; rejects with `unknown` if nobody can know whether it was delivered. */
  async publish(text) {
    if (!this.wasJoined) await this.joined;
    return new Promise((resolve, reject) => this.#chat.publish(this, { text: wellFormed(text), resolve, reject }));
  }

  /** Who is here: { users, count }. The list is cut at 100, the count is exact. */
  async who() {
    const { Users, Count } = await this.#chat.ask({ Op: "who", Room: this.name });
    return { users: Users, count: Count };
  }

  leave() {
    return this.#chat.leave(this);
  }

  /** Bytes by which a text would be too long for a message; 0 or less if it fits. */
  excess(text) {
    return this.#chat.excess(this, text);
  }

  // ---- For the chat alone ----

  entered({ Room = this.name, Epoch, Seq, Recovered, Users = this.users }) {
    const isAgain = this.wasJoined;
    const missed = isAgain && !Recovered;
    Object.assign(this, { name: Room, users: Users, state: "joined", wasJoined: true });
    if (Seq !== undefined) this.position = { Epoch, Seq };
    this.#settle.resolve(this);
    this[EMIT]("joined", { isAgain, recovered: isAgain ? Boolean(Recovered) : undefined });
    if (missed) this[EMIT]("gap", {});
    clearTimeout(this.#doubtTimer);
    if (missed) this.doubtNoMore();
    else if (this.#doubtful.length) this.#doubtTimer = setTimeout(() => this.doubtNoMore(), DOUBT_MS);
  }

  /** The connection is lost, or the room refused. */
  wentAway(error) {
    if (this.state === "left") return;
    this.state = "away";
    this[EMIT]("away", { error });
    if (error && !this.wasJoined) this.#settle.reject(error);
  }

  wasLeft() {
    this.state = "left";
    this.wasCutOff();
    this[EMIT]("left", {});
  }

  /** Nothing more will come. */
  wasCutOff(error = closed()) {
    this.#settle.reject(error);
    this.doubtNoMore();
  }

  doubt(publication) {
    this.#doubtful.push(publication);
  }

  doubtNoMore() {
    clearTimeout(this.#doubtTimer);
    for (const { reject } of this.#doubtful.splice(0)) reject(uncertain());
  }

  /** Takes a frame of the room, unless it has been here before. */
  take(frame) {
    const { From, Message, Meta, Event, Seq, Epoch, Ts, Users, FromSeq, ToSeq } = frame;
    const before = this.position;
    if (Event === "gap") {
      if (ToSeq !== undefined) this.position = { Epoch, Seq: ToSeq };
      return this[EMIT]("gap", FromSeq === undefined ? {} : { from: FromSeq, to: ToSeq, missed: ToSeq - FromSeq + 1 });
    }
    if (Seq !== undefined) {
      if (before?.Epoch === Epoch && Seq <= before.Seq) return;
      if (before?.Epoch === Epoch && Seq > before.Seq + 1) {
        this[EMIT]("gap", { from: before.Seq + 1, to: Seq - 1, missed: Seq - before.Seq - 1 });
      }
      this.position = { Epoch, Seq };
    }
    if (Users !== undefined) this.users = Users;
    const time = Ts ?? Date.now();
    if (Meta) return this.#notice(frame, time);
    const own = From === this.#chat.name;
    if (own) this.#confirm(Message, { seq: Seq, epoch: Epoch });
    this[EMIT]("message", { room: this, from: From, text: Message, time, seq: Seq, epoch: Epoch, own });
  }

  /** A message of ours came: perhaps one whose connection was lost, unless it may be the same text that was sent again. */
  #confirm(message, position) {
    const isIt = ({ text }) => text === message;
    const at = [...this.sending].some(isIt) ? -1 : this.#doubtful.findIndex(isIt);
    if (at >= 0) this.#doubtful.splice(at, 1)[0].resolve(position);
  }

  #notice(frame, time) {
    const { Event, User, Joined = 0, Left = 0, JoinedUsers = [], LeftUsers = [], Message, Users: users } = frame;
    const told = (joined, left, joinedCount = joined.length, leftCount = left.length) =>
      this[EMIT]("presence", { joined, left, joinedCount, leftCount, users, time });
    if (Event === "join") told([User], []);
    else if (Event === "leave") told([], [User]);
    else if (Event === "presence") told(JoinedUsers, LeftUsers, Joined, Left);
    else this[EMIT]("notice", { event: Event, text: Message, time });
  }
}

/** A connection to hi as one user. */
export class Chat extends Emitter {
  rooms = new Map(); // by name
  limits = {}; // from the server: Message (bytes), Rooms, Rate (messages per second); 0: no limit
  resume; // the secret with which our next connection takes over our name
  #options;
  #root;
  #line;
  #answers = new Map(); // requests without an answer, by Ref
  #ref = 0;
  #feeds = new Map(); // rooms that are read as server-sent events
  #renewal = 0; // the timer for the next token

  constructor(address, options = {}) {
    super();
    this.#options = options;
    this.#root = root(address);
    this.name = options.name ?? "";
    this.resume = options.resume ?? "";
    if (options.transport === "sse") return;
    this.#line = new Line(options, {
      url: () => {
        const url = new URL(`ws?${this.#user()}resume=${encodeURIComponent(this.resume)}`, this.#root);
        url.protocol = url.protocol.replace("http", "ws");
        return url.href;
      },
      protocols: ["hi.v1"],
      opened: () => {},
      received: (data) => this.#receive(JSON.parse(data)),
      ping: (ms) => this.#ask({ Op: "ping" }, () => {}, ms),
      lost: () => this.#lost(),
      told: (event) => this.#told(event),
    });
    this.#line.connect();
  }

  /** Our name in the query; a token says it by itself. Not URLSearchParams, which would write a space as "+". */
  #user() {
    return this.#options.token && !this.#options.name ? "" : `username=${encodeURIComponent(this.name)}&`;
  }

  /** `connecting`, `connected`, `waiting` for the next attempt, `reading` (server-sent events) or `closed`. */
  get state() {
    if (this.#line?.isReady) return "connected";
    if ([...this.#feeds.values()].some((feed) => feed.isOpen)) return "reading";
    return this.#line?.state ?? (this.#feeds.size ? "connecting" : "closed");
  }

  /** Joins a room. With `since` (the `position` of an earlier Room), the messages after that come first. */
  join(name, { since } = {}) {
    const known = this.rooms.get(name) ?? [...this.rooms.values()].find((room) => fold(room.name) === fold(name));
    if (known) {
      if (known.state === "away") this.#enter(known);
      return known;
    }
    const room = new Room(this, name, since);
    this.rooms.set(name, room);
    this.#enter(room);
    if (!this.#line) this.#feed(room);
    return room;
  }

  /** The rooms of the server whose names begin with this: { rooms: [{ name, users }], count }. */
  async list(prefix = "") {
    const { Rooms, Count } = await this.ask({ Op: "rooms", Prefix: prefix });
    return { rooms: Rooms.map(({ Room, Users }) => ({ name: Room, users: Users })), count: Count };
  }

  /** Connects at once instead of later, also after the end. */
  retry() {
    if (this.#line && ["waiting", "closed"].includes(this.#line.state)) this.#line.connect();
  }

  /** Checks whether the connection still works; browsers do this when the network changes or the page is shown again. */
  check() {
    this.#line?.check();
  }

  close() {
    for (const feed of this.#feeds.values()) feed.stop();
    this.#feeds.clear();
    if (this.#line) this.#line.close();
    else this.#told({ state: "closed" });
  }

  // ---- For the rooms ----

  /** Sends a request, and resolves with the answer. */
  ask(request) {
    return new Promise((resolve, reject) => {
      if (!this.#line?.isReady) return reject(this.#unsendable());
      this.#ask(request, (answer, error) => (error ? reject(error) : resolve(answer)));
    });
  }

  publish(room, publication) {
    const { text, resolve, reject } = publication;
    if (!this.#line?.isReady || room.state !== "joined") throw this.#unsendable();
    const excess = this.excess(room, text);
    if (excess > 0) throw new HiError("too_large", `The message is too long by ${excess} bytes.`);
    this.#line.checkRoom();
    room.sending.add(publication);
    this.#ask({ Room: room.name, Message: text }, (answer, error) => {
      room.sending.delete(publication);
      if (answer) resolve({ seq: answer.Seq, epoch: answer.Epoch });
      else if (error.code === "offline") room.doubt(publication);
      else reject(error);
    });
  }

  excess(room, text) {
    const max = this.limits.Message || Infinity;
    return bytes(JSON.stringify({ Room: room.name, Message: wellFormed(text), Ref: this.#ref + 1 })) - max;
  }

  async leave(room) {
    const isMember = this.#line?.isReady && ["joined", "joining"].includes(room.state);
    this.rooms.delete(room.name);
    this.#feeds.get(room)?.stop();
    this.#feeds.delete(room);
    room.wasLeft();
    // If this fails, the connection is lost, and the room is left with it.
    if (isMember) await this.ask({ Op: "leave", Room: room.name }).catch(() => {});
  }

  // ---- The protocol ----

  #unsendable() {
    return this.state === "reading" || !this.#line ? new HiError("read_only", "Without a WebSocket, rooms can only be read.") : offline();
  }

  /** Sends a request; `answered` gets the answer or an error, synchronously: what follows on the wire depends on it. */
  #ask(request, answered, ms = ANSWER_MS) {
    const ref = ++this.#ref;
    this.#answers.set(ref, answered);
    this.#line.send(JSON.stringify({ ...request, Ref: ref }));
    this.#line.expect(ms);
  }

  #receive(frame) {
    if (frame.Op === "hello") return this.#greeted(frame);
    if (frame.Op === "auth") return this.#unknown(frame);
    if (!frame.Op) return this.#roomOf(frame.Room)?.take(frame);
    const answered = this.#answers.get(frame.Ref);
    this.#answers.delete(frame.Ref);
    if (frame.Op === "err") answered?.(null, new HiError(frame.Code, frame.Message, frame.Temporary));
    else answered?.(frame);
  }

  #roomOf(name) {
    const room = this.rooms.get(name);
    return room?.state === "joined" ? room : undefined;
  }

  /** The server wants a token, and the handshake had none. */
  #unknown({ Message }) {
    const error = new HiError("denied", Message);
    this.#line.close({ code: 4001, reason: "This server asks for a token.", error });
  }

  /** Our token expires in this many seconds: a new one is sent before, so that the connection goes on. */
  #renew(seconds) {
    clearTimeout(this.#renewal);
    if (!seconds || !this.#options.token) return;
    const ms = 1000 * Math.max(seconds - RENEW_S, seconds / 2, 1);
    this.#renewal = setTimeout(async () => {
      // If that fails, the server ends the connection, and the next one begins with a new token.
      const Token = await Promise.resolve(this.#options.token()).catch(() => "");
      if (Token && this.#line.isReady) this.#ask({ Op: "auth", Token }, (answer) => answer && this.#renew(answer.Expires));
    }, Math.min(ms, TIMER_MS_MAX));
  }

  #greeted({ User = this.name, Resume = "", Limits = {}, Expires }) {
    this.#renew(Expires);
    Object.assign(this, { name: User, resume: Resume, limits: Limits });
    for (const feed of this.#feeds.values()) feed.stop();
    this.#feeds.clear();
    this.#line.ready();
    for (const room of this.rooms.values()) this.#enter(room);
  }

  #enter(room) {
    if (!this.#line?.isReady || room.state === "left") return;
    room.state = "joining";
    this.#ask({ Op: "join", Room: room.name, Since: room.position }, (answer, error) => {
      if (room.state === "left" || error?.code === "offline") return;
      if (answer) {
        this.rooms.delete(room.name); // the server may spell it differently
        this.rooms.set(answer.Room ?? room.name, room);
        return room.entered(answer);
      }
      room.wentAway(error);
      if (!room.wasJoined) this.rooms.delete(room.name);
      else setTimeout(() => room.state === "away" && this.#enter(room), REJOIN_MS);
    });
  }

  #lost() {
    clearTimeout(this.#renewal);
    const unanswered = [...this.#answers.values()];
    this.#answers.clear();
    for (const answered of unanswered) answered(null, offline());
    for (const room of this.rooms.values()) room.wentAway();
  }

  #told(event) {
    const isEnd = event.state === "closed";
    if (isEnd) for (const room of this.rooms.values()) room.wasCutOff(event.error);
    const mayRead = this.#options.transport !== "websocket" && !isEnd;
    if (mayRead && event.wasOpen === false && event.attempt === 1) this.#explain().catch(() => {}); // it was worth a try
    if (mayRead && this.#line?.unopened >= UNOPENED_MAX) for (const room of this.rooms.values()) this.#feed(room);
    this[EMIT]("state", { ...event, state: this.state });
  }

  /** WebSockets don't say why a handshake failed. If the server refuses the name, or this page, no further attempt would succeed. */
  async #explain() {
    const { token, fetch = globalThis.fetch } = this.#options;
    const secret = await token?.();
    const headers = { Accept: "application/json", ...(secret && { Authorization: `Bearer ${secret}` }) };
    const url = new URL(`ws?${this.#user()}`, this.#root);
    const answer = await fetch(url, { headers, cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) }).catch(() => ({}));
    // The next token may be accepted.
    const code = { 400: "bad_request", 401: token ? undefined : "denied", 403: "denied" }[answer.status];
    if (!code || this.#line.isReady || this.#line.state === "closed") return;
    const { detail, sentence = "The server refused the connection." } = await answer.json().catch(() => ({}));
    const error = new HiError(code, detail ?? sentence);
    this.#line.close({ reason: error.message, error });
  }

  /** Reads a room as server-sent events, until a WebSocket works. */
  #feed(room) {
    if (this.#feeds.has(room) || room.state === "left") return;
    const url = new URL(`stream/${encodeURIComponent(room.name)}`, this.#root);
    this.#feeds.set(room, new Feed(url, room, this.#options, () => this[EMIT]("state", { state: this.state })));
  }
}

/** A room as server-sent events: opened again whenever it ends. */
class Feed {
  isOpen = false;
  #stopped = false;
  #abort = new AbortController();
  #timer = 0;
  #retryMs = 0;

  constructor(url, room, options, told) {
    this.#run(url, room, options, told);
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#abort.abort();
  }

  async #run(url, room, options, told) {
    for (let attempt = 1; !this.#stopped; attempt++) {
      this.#abort = new AbortController();
      try {
        await this.#read(url, room, options, () => {
          attempt = 0;
          this.isOpen = true;
          told();
        });
      } catch {
        // Whatever it was, the next attempt shows whether it lasts.
      }
      clearTimeout(this.#timer);
      if (this.#stopped) return;
      if (this.isOpen) {
        this.isOpen = false;
        room.wentAway();
        told();
      }
      await new Promise((resolve) => { this.#timer = setTimeout(resolve, this.#retryMs || backoffMs(attempt)); });
      this.#retryMs = 0;
    }
  }

  async #read(url, room, { token, fetch = globalThis.fetch }, opened) {
    const heard = () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#abort.abort(), STREAM_SILENCE_MS);
    };
    heard();
    // In the address, because the header would cost a preflight at another origin.
    const since = room.position;
    url.search = since ? `lastEventId=${since.Epoch}:${since.Seq}` : "";
    const secret = await token?.();
    const headers = { Accept: "text/event-stream", ...(secret && { Authorization: `Bearer ${secret}` }) };
    const answer = await fetch(url, { headers, cache: "no-store", signal: this.#abort.signal });
    if (answer.status !== 200) throw new HiError("offline", `HTTP ${answer.status}`);
    const [reader, decoder] = [answer.body.getReader(), new TextDecoder()];
    for (let text = ""; ;) {
      const { value, done } = await reader.read();
      if (done || this.#stopped) return;
      heard();
      const events = (text + decoder.decode(value, { stream: true })).split("\n\n");
      text = events.pop();
      for (const event of events) this.#take(event, room, opened);
    }
  }

  #take(event, room, opened) {
    const field = (name) => event.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
    const [id, data] = [field("id"), field("data")];
    const [Epoch, Seq] = id?.split(":") ?? [];
    if (id && !this.isOpen) {
      opened();
      // A stream that can't continue where the last one ended begins with a gap, and says so itself.
      room.entered({ Recovered: true, ...(room.position ? {} : { Epoch, Seq: Number(Seq) }) });
    }
    this.#retryMs = Number(field("retry") ?? this.#retryMs);
    if (data) room.take(JSON.parse(data));
    if (id) room.position = { Epoch, Seq: Number(Seq) };
  }
}

/** A raw room: whatever is sent there, text or binary, goes to everyone unchanged. What comes while the connection is lost is lost. */
export class Raw extends Emitter {
  #line;

  constructor(address, room, options = {}) {
    super();
    const url = new URL(`raw/${encodeURIComponent(room)}`, root(address));
    url.protocol = url.protocol.replace("http", "ws");
    if (options.echo === false) url.searchParams.set("echo", "0");
    if (options.lossy) url.searchParams.set("lossy", "1");
    this.#line = new Line(options, {
      url: () => url.href,
      // Browsers want one of those that they offer to be chosen, and a token never is.
      protocols: options.token ? ["hi.raw"] : [],
      opened: () => this.#line.ready(),
      received: (data) => this[EMIT]("message", { data }),
      lost: () => {},
      told: (event) => this[EMIT]("state", event),
    });
    this.#line.connect();
  }

  get state() {
    return this.#line.state;
  }

  /** Sends text or bytes. Throws `offline` if there is no connection, and `busy` if too much waits to be sent. */
  send(data) {
    this.#line.checkRoom();
    this.#line.send(data);
  }

  retry() {
    if (["waiting", "closed"].includes(this.state)) this.#line.connect();
  }

  close() {
    this.#line.close();
  }
}

/** Connects to hi as the user `name`. */
export const connect = (address, options) => new Chat(address, options);

/** Connects to a raw room. */
export const raw = (address, room, options) => new Raw(address, room, options);
