// The page's connection: hi.js, or v0 where hi.v1 doesn't get through; and what the page makes of its state. It knows nothing
// about the page itself: it reports to its handlers.

import { beside, diagnose } from "./diagnosis.js";
import { Chat, fold } from "./hi.js";
import { v0 } from "./v0.js";

const NAME_HELD_MS = 75_000; // our own dead connection may hold our name this long: two heartbeats and a margin
const PROBE_MS = 10_000; // how long a new name may take

export { fold };
export const bytes = (text) => new TextEncoder().encode(text).length;

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
  home = ""; // the room on the screen
  token = ""; // says who we are, where the server asks; it never stands in an address
  isConnected = false;
  isReading = false; // no WebSocket gets through: rooms are read as server-sent events
  v1 = true; // whether to speak hi.v1, until a handshake with it fails
  /**
   * Callbacks, set by the page. state(state, seconds) with "connecting", "connected", "reading", "waiting" or "offline"; trouble({ text, fix });
   * refused({ text, fix, isOfRoom, needsToken }) if the first connection or its room fails; joined(name, answer), notJoined(name, text), left(name);
   * message(name, message), presence(name, presence), gap(name, gap), notice(name, notice) from a room.
   */
  handlers = {};
  #chat;
  #keep = false; // whether to reconnect: not while the join form shows
  #proven = false; // a handshake has succeeded
  #typed = ""; // the name as it was typed; a token has its own
  #unsettled = new Set(); // what to call if the connection is lost before the answer to a message
  #heldSince = 0; // when our own name was first refused
  #blocked; // what is said while rooms can only be read
  #tick = 0;

  get name() {
    return this.#chat?.name ?? "";
  }

  get resume() {
    return this.#chat.resume;
  }

  get limits() {
    return this.#chat?.limits ?? {};
  }

  get isOpening() {
    return Boolean(this.#chat) && (this.#keep || !this.isReading);
  }

  isIn(name) {
    return this.room(name)?.state === "joined";
  }

  room(name) {
    return this.#chat?.rooms.get(name);
  }

  /** Connects and joins one room; called by the join form. */
  open(name, room, token) {
    Object.assign(this, { home: room, token });
    this.#typed = name;
    this.#start({}, [[room]]);
  }

  /** Resumes a chat after a reload: `rooms` are pairs of a name and its position. */
  restore({ name, home, rooms, resume, v1, token = "" }) {
    Object.assign(this, { home, v1, token });
    this.#keep = this.#proven = true;
    this.#typed = name;
    this.#start({ resume }, rooms);
  }

  #start(options, rooms) {
    this.#chat?.close();
    this.isReading = false;
    const home = () => (this.#chat.rooms.has(this.home) ? this.home : this.#chat.rooms.keys().next().value);
    const speech = this.v1 ? {} : { WebSocket: v0(home) };
    this.#adopt(new Chat(beside("."), { ...this.#identity(this.#typed), ...options, ...speech }), rooms);
    this.handlers.state("connecting");
  }

  /** The options of a chat under this name, or as the token says. v0 needs a name in any case. */
  #identity(name) {
    const token = this.token && { token: () => this.token };
    return { transport: "websocket", name: token && this.v1 ? "" : name, ...token };
  }

  /** Makes this the connection, with pairs of a room's name and its position. */
  #adopt(chat, rooms) {
    this.#chat = chat;
    chat.on("state", (event) => this.#chat === chat && this.#told(event));
    for (const [name, since] of rooms) this.join(name, since);
  }

  // ---- Rooms ----

  join(name, since) {
    const chat = this.#chat;
    const room = chat.join(name, { since });
    if (room.isWatched) return;
    room.isWatched = true;
    const told = (what) => (event) => this.#chat === chat && this.handlers[what](room.name, event);
    for (const event of ["message", "presence", "gap", "notice"]) room.on(event, told(event));
    room.on("left", () => this.#chat === chat && this.handlers.left(room.name));
    room.on("joined", ({ isAgain, recovered }) => this.#chat === chat && this.#joined(room, { asked: name, isAgain, recovered }));
    room.on("away", ({ error }) => this.#chat === chat && error && this.#notJoined(room, error));
  }

  #joined(room, answer) {
    if (this.home === answer.asked) this.home = room.name;
    if (!this.#keep) this.handlers.state(this.isReading ? "reading" : "connected");
    if (this.isReading) this.handlers.trouble(this.#blocked);
    this.#keep = true;
    this.handlers.joined(room.name, answer);
  }

  #notJoined(room, { code, message }) {
    if (this.#keep) return this.handlers.notJoined(room.name, message);
    const isTaken = code === "name_taken";
    this.#refuse({ text: isTaken ? takenText(this.name, room.name) : message, isOfRoom: !isTaken });
  }

  leave(name) {
    const room = this.room(name);
    if (room) room.leave();
    else this.handlers.left(name);
  }

  /** Sends a message to a room that we are in. `settled` gets the error, if any; its code is `lost` if the connection ends first. */
  publish(name, text, settled) {
    this.#unsettled.add(settled);
    const answered = (error) => this.#unsettled.delete(settled) && settled(error);
    this.room(name).publish(text).then(() => answered(), answered);
  }

  excess(name, text) {
    return this.room(name).excess(text);
  }

  who(name) {
    return this.#chat.ask({ Op: "who", Room: name });
  }

  channels() {
    return this.#chat.ask({ Op: "rooms" });
  }

  /**
   * Changes our name: a second connection joins under the new one, and then the first one ends. Resolves with the reason if
   * that fails.
   */
  rename(name) {
    const before = this.#chat;
    const known = before.rooms.get(this.home);
    const chat = new Chat(beside("."), { ...this.#identity(name), name });
    const room = chat.join(this.home, { since: known.position });
    return new Promise((resolve) => {
      const fail = (why) => {
        chat.close();
        resolve(why);
      };
      const timer = setTimeout(fail, PROBE_MS, "The server doesn't answer.");
      const refused = room.on("away", ({ error }) => error && fail(error.message));
      const lost = chat.on("state", async ({ state }) => {
        if (state !== "waiting") return;
        chat.close();
        fail((await diagnose(this.#address(name), this.token)).text);
      });
      const joined = room.on("joined", () => {
        clearTimeout(timer);
        for (const off of [refused, lost, joined]) off();
        room.position = known.position; // what came in the meantime is on the screen already
        this.#adopt(chat, this.#positions());
        before.close();
        resolve();
      });
    });
  }

  // ---- The state ----

  #told({ state, retryAt, code, reason, wasOpen, attempt: count }) {
    this.isConnected = state === "connected";
    clearTimeout(this.#tick);
    if (this.isReading) return this.#keep && this.handlers.state(state);
    if (this.isConnected) {
      this.#proven = true;
      this.#heldSince = 0;
      if (this.#keep) this.handlers.state("connected");
      return;
    }
    const unsettled = [...this.#unsettled];
    this.#unsettled.clear();
    for (const settled of unsettled) settled({ code: "lost" });
    if (state === "connecting") this.handlers.state("connecting");
    else if (state !== "closed") this.#waits(retryAt, code, reason, wasOpen, count);
    else if (reason) this.#ended({ text: reason, needsToken: code === 4001 });
  }

  #waits(retryAt, code, text, wasOpen, count) {
    if (!wasOpen && !this.#proven && this.v1) {
      this.v1 = false;
      return this.#start({}, [[this.home]]);
    }
    if (!this.#keep) return this.#explain(code, text, wasOpen);
    if (code === 4002) {
      this.#heldSince ||= Date.now();
      if (Date.now() - this.#heldSince > NAME_HELD_MS) return this.#ended({ text: takenText(this.name, this.home) });
    }
    this.handlers.trouble({ text: code === 4002 ? "Your name is still taken, probably by your lost connection." : text });
    this.#countDown(retryAt);
    // Not at the first failure: a restarting server will accept the next attempt.
    if (!wasOpen && count > 1) this.#diagnose();
  }

  #countDown(retryAt) {
    const ms = retryAt - Date.now();
    this.handlers.state("waiting", Math.max(1, Math.ceil(ms / 1000)));
    this.#tick = setTimeout(() => this.#countDown(retryAt), ms > 1000 ? ms % 1000 || 1000 : 1000);
  }

  async #diagnose() {
    const chat = this.#chat;
    const found = await diagnose(this.#address(this.name), this.token);
    if (this.#chat !== chat || chat.state === "connected") return;
    if (found.isFinal) this.#ended(found);
    else if (found.isBlocked && !this.#proven) this.#read(found, this.name, this.#positions());
    else this.handlers.trouble(found);
  }

  /** Reads the rooms as server-sent events, if these get through. */
  #read(found, name, rooms) {
    this.#chat?.close();
    this.isReading = true;
    this.#blocked = { ...found, text: `You can read here, but not write. ${found.text}` };
    this.#adopt(new Chat(beside("."), { ...this.#identity(name), transport: "sse" }), rooms);
  }

  #positions() {
    return [...this.#chat.rooms.values()].map((room) => [room.name, room.position]);
  }

  /** For the diagnosis: without the secret, which logs could show. */
  #address(name) {
    const user = name ? `username=${encodeURIComponent(name)}&` : "";
    return beside(`ws?${user}room=${encodeURIComponent(this.home)}`);
  }

  /** At the join form there are no retries: the user decides. */
  async #explain(code, text, wasOpen) {
    const [name, address] = [this.name, this.#address(this.name)];
    if (code === 4002) return this.#refuse({ text: takenText(name, this.home) });
    if (wasOpen) return this.#refuse({ text });
    this.#refuse({ text: "No connection. Looking for the reason…" });
    this.v1 = true;
    const found = await diagnose(address, this.token);
    if (this.#chat) return;
    this.handlers.refused(found);
    if (found.isBlocked) this.#read(found, name, [[this.home]]);
  }

  #refuse(found) {
    const chat = this.#chat;
    this.#chat = undefined;
    chat.close();
    this.handlers.state("offline");
    this.handlers.refused(found);
  }

  #ended(found) {
    if (!this.#keep) return this.#refuse(found);
    this.#chat.close();
    this.handlers.trouble(found);
    this.handlers.state("offline");
  }

  /** Connects now instead of later, also after giving up. */
  retryNow() {
    if (this.isReading) this.#start({ name: this.name }, this.#positions());
    else this.#chat.retry();
  }
}
