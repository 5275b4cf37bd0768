// A WebSocket that speaks hi.v1 to hi.js and v0 to the server: for proxies that drop the subprotocol. v0 answers with sentences,
// mostly in the order of the requests, and without a Ref.

import { fold } from "./hi.js";

const OWN_MS = 5_000; // after our attempt with v1 failed, the server may take this long to free our name
const REFUSED_MS = 2_000; // v0 doesn't say which message was too fast: the ones without an echo after this time
const COMMAND = /^\/(join|leave|list|channels)(?= |$)/; // a leading space turns it into text
const KEYS_BYTES = 24; // by which a message is longer than in v1, beside the name

const bytes = (text) => new TextEncoder().encode(text).length;

/** The class of such sockets. `home()` is the room to join first: with v0, it is part of the address. */
export function v0(home) {
  const born = Date.now();
  let bytesMax = 16_384; // the server closes the connection for a longer message: then we know better

  return class {
    #url;
    #protocols = [];
    #name;
    #socket;
    #held; // the frames of the first room, until hi.js joins it
    #isOpen = false;
    #joined = new Set(); // rooms, folded
    #joining = new Map(); // Ref, by folded room
    #leaving = new Map();
    #asked = []; // requests without an answer
    #sent = []; // messages without an echo

    constructor(url, protocols = []) {
      const bearer = protocols.filter((protocol) => protocol.startsWith("hi.bearer."));
      if (bearer.length) this.#protocols = ["hi.v0", ...bearer];
      const address = new URL(url);
      this.#name = address.searchParams.get("username");
      address.search = `?username=${encodeURIComponent(this.#name)}&room=${encodeURIComponent(home())}`;
      this.#url = address;
      this.#open();
    }

    #open() {
      const socket = (this.#socket = new WebSocket(this.#url, this.#protocols));
      socket.onopen = () => {
        if (!this.#isOpen) this.onopen();
        this.#isOpen = true;
      };
      socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
      socket.onclose = ({ code, reason }) => {
        if (code === 4002 && Date.now() - born < OWN_MS) return setTimeout(() => this.#open(), 300);
        if (code === 1009) this.#learn();
        setTimeout(() => this.onclose({ code: code === 1009 ? 1006 : code, reason })); // after what has been delivered
      };
    }

    close() {
      this.#socket.close(1000);
    }

    #deliver(frame) {
      queueMicrotask(() => this.onmessage({ data: JSON.stringify(frame) }));
    }

    #say(Room, Message) {
      const frame = JSON.stringify({ From: this.#name, Message, Room, Meta: false });
      this.#socket.send(frame);
      return bytes(frame);
    }

    /** Commands have to be sent to an existing room. */
    #command(text, room = this.#joined.values().next().value) {
      this.#say(room, text);
    }

    send(data) {
      const { Op, Room, Message, Ref } = JSON.parse(data);
      if (Op === "join") this.#join(Room, Ref);
      else if (Op === "leave") {
        this.#leaving.set(fold(Room), Ref);
        this.#command(`/leave ${Room}`, Room);
      } else if (Op) {
        this.#asked.push({ Op, Ref });
        if (Op === "ping") this.#say("", "ping");
        else this.#command(Op === "who" ? "/list" : "/channels", Room);
      } else {
        const wire = Message.replace(COMMAND, " $&");
        this.#sent.push({ Ref, Room, Message, wire, bytes: this.#say(Room, wire) });
      }
    }

    #join(room, Ref) {
      const key = fold(room);
      if (!this.#joined.has(key)) {
        this.#joining.set(key, Ref);
        return this.#command(`/join ${room}`);
      }
      const frames = this.#held.splice(0);
      this.#held = undefined;
      this.#deliver({ Op: "ok", Ref, Room: frames[0].Room });
      for (const frame of frames) this.#deliver(frame);
    }

    #receive(frame) {
      const { From, Room, Message, Meta, Seq, Epoch } = frame;
      if (!Room) return this.#system(Message);
      const key = fold(Room);
      if (!this.#joined.size) {
        this.#joined.add(key);
        this.#held = [];
        const Limits = { Message: bytesMax - bytes(JSON.stringify(this.#name)) - KEYS_BYTES };
        this.#deliver({ Op: "hello", User: this.#name, Limits });
      }
      if (Meta && Seq === undefined) return this.#answer(Message);
      if (this.#held && this.#joined.has(key)) return this.#held.push(frame);
      const Ref = this.#joining.get(key);
      if (this.#joining.delete(key)) {
        this.#joined.add(key);
        this.#deliver({ Op: "ok", Ref, Room });
      }
      const at = From === this.#name ? this.#sent.findIndex(({ wire }) => wire === Message) : -1;
      if (at < 0) return this.#deliver(frame);
      const [sent] = this.#sent.splice(at, 1);
      this.#deliver({ ...frame, Message: sent.Message });
      this.#deliver({ Op: "ok", Ref: sent.Ref, Room, Seq, Epoch });
    }

    /** To `/list` or `/channels`: names, and perhaps "and 12 more". */
    #answer(text) {
      const { Op, Ref } = this.#asked.shift() ?? {};
      const [, listed, more = 0] = /^(.*?)(?:, and ([\d,]+) more)?$/.exec(text);
      const names = listed.split(", ");
      const Count = names.length + Number(String(more).replaceAll(",", ""));
      if (Op === "who") this.#deliver({ Op: "ok", Ref, Users: names, Count });
      else if (Op === "rooms") this.#deliver({ Op: "ok", Ref, Rooms: names.map((Room) => ({ Room })), Count });
    }

    /** A system message. It can't be forged: users' messages have a room. */
    #system(text) {
      const refuse = (Ref, Code) => this.#deliver({ Op: "err", Ref, Code, Message: text });
      const [, left, notLeft] = /^Left channel (\S+)\.$|^Couldn't leave channel (\S+): /.exec(text) ?? [];
      if (left ?? notLeft) return this.#left(fold(left ?? notLeft));
      if (text === "room does not exist.") {
        const { Op, Ref } = this.#asked.shift() ?? {};
        return Op === "ping" ? this.#deliver({ Op: "pong", Ref }) : refuse(Ref, "room_not_found");
      }
      if (text.startsWith("Too fast:")) {
        const doubtful = [...this.#sent];
        return setTimeout(() => {
          const refused = doubtful.filter((sent) => this.#sent.includes(sent));
          this.#sent = this.#sent.filter((sent) => !refused.includes(sent));
          for (const { Ref } of refused) refuse(Ref, "too_many_requests");
        }, REFUSED_MS);
      }
      const [key, Ref] = this.#joining.entries().next().value ?? [];
      if (this.#joining.delete(key)) refuse(Ref, text.includes("already in room") ? "name_taken" : "bad_request");
    }

    #left(key) {
      this.#joined.delete(key);
      this.#deliver({ Op: "ok", Ref: this.#leaving.get(key) });
      this.#leaving.delete(key);
      if (!this.#joined.size) this.#socket.close(1000); // the next first room is part of an address
    }

    /** The longest message without an echo was too long for the server. */
    #learn() {
      const longest = this.#sent.sort((a, b) => b.bytes - a.bytes)[0];
      if (!longest) return;
      bytesMax = Math.min(bytesMax, longest.bytes - 1);
      this.#deliver({ Op: "err", Ref: longest.Ref, Code: "too_large", Message: "too long for this server." });
    }
  };
}
