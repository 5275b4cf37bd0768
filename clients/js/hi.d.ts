// Types of hi.js, a client of hi.

/** Where a client is in a room's order. Keep it to continue there later: see `JoinOptions`. */
export interface Position {
  Epoch: string;
  Seq: number;
}

/** The codes of the server, and those of this client: `offline`, `unknown`, `busy`, `read_only`, `too_large`, `closed`. */
export type ErrorCode =
  | "room_not_found" | "name_taken" | "too_many_rooms" | "not_joined" | "too_many_requests" | "bad_request" | "denied" | "unavailable"
  | "offline" | "unknown" | "busy" | "read_only" | "too_large" | "closed"
  | (string & {});

/** Why a request failed. */
export class HiError extends Error {
  readonly code: ErrorCode;
  /** Whether the same request may succeed a moment later. */
  readonly temporary: boolean;
  constructor(code: ErrorCode, message: string, temporary?: boolean);
}

export interface Options {
  /** The class of WebSockets, where there is no global one: for Node 20, that of the package `ws`. */
  WebSocket?: unknown;
  /**
   * Called for each connection, and before the token expires: its value is sent as the subprotocol `hi.bearer.VALUE`, and as
   * `Authorization` of streams. The token says who the user is: leave `name` out.
   */
  token?: () => string | Promise<string>;
}

export interface ConnectOptions extends Options {
  /** The user. */
  name?: string;
  /** `resume` of an earlier chat of the same user: takes the name over from it if it is still open. */
  resume?: string;
  /**
   * `auto` (the default): a WebSocket, and server-sent events for as long as none can be opened. `websocket` or `sse`: that
   * alone; `sse` only reads, and needs no name.
   */
  transport?: "auto" | "websocket" | "sse";
  /** A replacement of `fetch`, for server-sent events. */
  fetch?: typeof fetch;
}

export interface RawOptions extends Options {
  /** `false`: don't send me what I send. */
  echo?: boolean;
  /** If I read too slowly, skip to the latest message instead of closing the connection. */
  lossy?: boolean;
}

export interface JoinOptions {
  /** The `position` of an earlier `Room`: the messages after it come first. */
  since?: Position;
}

export type ChatState = "connecting" | "connected" | "waiting" | "reading" | "closed";

export interface StateEvent {
  state: ChatState;
  /** With `waiting`: when the next attempt is made, in ms since 1970. */
  retryAt?: number;
  /** The close code of the connection that was lost. */
  code?: number;
  /** Why it was lost, as a sentence. */
  reason?: string;
  /** With `closed`: what the server said when it refused the name, or the page. */
  error?: HiError;
  /** Whether that connection had been opened. */
  wasOpen?: boolean;
  /** Connections lost in a row. */
  attempt?: number;
}

export interface Message {
  room: Room;
  from: string;
  text: string;
  /** In ms since 1970. */
  time: number;
  seq: number;
  epoch: string;
  /** Whether this user sent it. */
  own: boolean;
}

export interface Presence {
  /** Users that came and went; at most three of each are named if many did at once. */
  joined: string[];
  left: string[];
  joinedCount: number;
  leftCount: number;
  /** Users in the room now. */
  users: number;
  time: number;
}

/** Messages that are lost for this client. Without `missed`, nobody knows how many: perhaps none. */
export interface Gap {
  from?: number;
  to?: number;
  missed?: number;
}

export interface RoomEvents {
  message: Message;
  presence: Presence;
  gap: Gap;
  /** `isAgain`: after a reconnect; `recovered`: with everything that was missed, which follows. */
  joined: { isAgain: boolean; recovered?: boolean };
  /** The connection is lost, or the server refuses the room, which is then asked for again. */
  away: { error?: HiError };
  left: {};
  /** Anything else that the server tells the room. */
  notice: { event?: string; text: string; time: number };
}

export interface RawEvents {
  message: { data: string | ArrayBuffer };
  state: StateEvent;
}

/** Something that can be listened to. */
export class Emitter<Events> {
  /** Calls `listener` for each event of this type; returns a function that ends this. */
  on<Type extends keyof Events>(type: Type, listener: (event: Events[Type]) => void): () => void;
}

/** A room of a chat. */
export class Room extends Emitter<RoomEvents> {
  private constructor();
  /** As the server spells it, once joined. */
  readonly name: string;
  readonly state: "joining" | "joined" | "away" | "left";
  /** Users in the room. */
  readonly users: number;
  /** Of the last message. */
  readonly position?: Position;
  /** Resolves once the room is joined for the first time; rejects if it is refused. */
  readonly joined: Promise<Room>;
  /**
   * Sends a text. Resolves when the server has it, also if its answer is lost and the message comes with the replay. Rejects with
   * the code `unknown` if nobody can know whether it was delivered, and with `busy` if more than 1 MiB waits to be sent. It is never
   * sent twice.
   */
  publish(text: string): Promise<{ seq: number; epoch: string }>;
  /** Who is here. The list is cut at 100, the count is exact. */
  who(): Promise<{ users: string[]; count: number }>;
  leave(): Promise<void>;
  /** Bytes by which a text would be too long for a message; 0 or less if it fits. */
  excess(text: string): number;
}

/** A connection to hi as one user. */
export class Chat extends Emitter<{ state: StateEvent }> {
  constructor(address: string | URL, options?: ConnectOptions);
  /** As the server spells it, once connected. */
  readonly name: string;
  readonly state: ChatState;
  readonly rooms: ReadonlyMap<string, Room>;
  /** What the server allows; 0: no limit. */
  readonly limits: { Message?: number; Rooms?: number; Rate?: number };
  /** The secret with which the next connection takes over the name. */
  readonly resume: string;
  /** Joins a room, or returns it if it is joined already. */
  join(name: string, options?: JoinOptions): Room;
  /** The rooms of the server whose names begin with `prefix`. The list is cut at 1,000, the count is exact. */
  list(prefix?: string): Promise<{ rooms: { name: string; users: number }[]; count: number }>;
  /** Connects at once instead of later, also after the end. */
  retry(): void;
  /** Checks whether the connection still works; browsers do this when the network changes or the page is shown again. */
  check(): void;
  close(): void;
}

/** A raw room: whatever is sent there goes to everyone unchanged. What comes while the connection is lost is lost. */
export class Raw extends Emitter<RawEvents> {
  constructor(address: string | URL, room: string, options?: RawOptions);
  readonly state: ChatState;
  /** Throws `offline` if there is no connection, and `busy` if too much waits to be sent. */
  send(data: string | ArrayBuffer | ArrayBufferView | Blob): void;
  retry(): void;
  close(): void;
}

/** Connects to hi: `address` is that of its page or of its WebSocket. */
export function connect(address: string | URL, options?: ConnectOptions): Chat;

/** Connects to a raw room. */
export function raw(address: string | URL, room: string, options?: RawOptions): Raw;

/** Folds a name: names that are equal to the server fold to the same text. */
export function fold(name: string): string;
