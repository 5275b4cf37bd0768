// hi.js against the real server. Runs in Node, Deno and Bun: HI_BIN=target/debug/hi node test/client.js [NAME...]

import assert from "node:assert/strict";

import { connect, HiError, raw } from "../hi.js";
import { next, Path, run, Server, token, until } from "./support.js";

// Node 20 and older have none of their own.
const options = globalThis.WebSocket ? {} : { WebSocket: (await import("ws")).default };

const open = (end, url, name, more = {}) => end(connect(url, { name, ...options, ...more }));

/** Joins a room, and notes everything that is heard there. */
async function listen(chat, name) {
  const room = chat.join(name);
  room.heard = [];
  room.on("message", ({ text }) => room.heard.push(text));
  room.on("gap", ({ missed }) => room.heard.push(`gap ${missed}`));
  room.on("joined", ({ isAgain, recovered }) => isAgain && room.heard.push(`again ${recovered}`));
  await room.joined;
  return room;
}

const heard = (room, text) => until(`${text} in ${room.heard}`, () => room.heard.includes(text));

const texts = (prefix, count) => Array.from({ length: count }, (_, number) => `${prefix}${number}`);

async function say(room, all) {
  for (const text of all) await room.publish(text);
}

await run({
  async a_message_is_acknowledged_and_reaches_everyone_once(end) {
    const server = end(await Server.start());
    const [ann, bob] = ["ann", "bob"].map((name) => open(end, server.url, name));
    const rooms = [await listen(ann, "tea"), await listen(bob, "tea")];
    const arrived = next(rooms[1], "message");
    const { seq, epoch } = await rooms[0].publish("hello");
    const message = await arrived;
    assert.deepEqual([message.from, message.text, message.seq, message.epoch, message.own], ["ann", "hello", seq, epoch, false]);
    assert.ok(Math.abs(message.time - Date.now()) < 60_000);
    await heard(rooms[0], "hello");
    assert.deepEqual(rooms.map((room) => room.heard), [["hello"], ["hello"]]);
  },

  async the_address_may_be_that_of_the_page_or_of_the_websocket(end) {
    const server = end(await Server.start());
    for (const url of [server.url, `${server.url}ws`, server.url.replace("http", "ws"), server.url.slice(0, -1)]) {
      await open(end, url, `ann ${url}`).join("tea").joined;
    }
  },

  async presence_counts_and_names_users(end) {
    const server = end(await Server.start());
    const room = await listen(open(end, server.url, "ann"), "tea");
    assert.equal(room.users, 1);
    const came = next(room, "presence", ({ joined }) => joined.includes("bob"));
    const bob = open(end, server.url, "bob");
    await bob.join("tea").joined;
    assert.deepEqual([(await came).users, room.users], [2, 2]);
    assert.deepEqual(await room.who(), { users: ["ann", "bob"], count: 2 });
    assert.deepEqual(await bob.list("t"), { rooms: [{ name: "tea", users: 2 }], count: 1 });
    const went = next(room, "presence", ({ left }) => left.includes("bob"));
    bob.close();
    assert.equal((await went).users, 1);
    assert.equal(room.users, 1);
  },

  async refusals_are_errors_with_the_code_of_the_server(end) {
    const server = end(await Server.start("--rate-limit", "1", "--rate-burst", "3", "--max-message", "300"));
    const room = await listen(open(end, server.url, "ann"), "tea");
    const refused = (promise, code) => assert.rejects(promise, (error) => error instanceof HiError && error.code === code);
    await refused(open(end, server.url, "ann").join("tea").joined, "name_taken");
    await refused(room.publish(" "), "bad_request");
    await refused(room.publish("x".repeat(300)), "too_large");
    assert.ok(room.excess("x".repeat(300)) > 0 && room.excess("x") < 0);
    const outcomes = await Promise.allSettled(texts("m", 9).map((text) => room.publish(text)));
    const tooFast = outcomes.filter(({ reason }) => reason?.code === "too_many_requests" && reason.temporary);
    assert.ok(tooFast.length >= 5, JSON.stringify(outcomes));
    await room.leave();
    assert.equal(room.state, "left");
    await refused(room.publish("x"), "offline");
  },

  async a_name_that_the_server_refuses_ends_the_attempts(end) {
    const server = end(await Server.start());
    for (const name of ["#x", "hi", ""]) {
      const chat = open(end, server.url, name);
      const ended = next(chat, "state", ({ state }) => state === "closed");
      await assert.rejects(chat.join("tea").joined, { code: "bad_request", temporary: false });
      assert.match((await ended).reason, /name/);
    }
  },

  async other_spellings_lead_to_the_same_room(end) {
    const server = end(await Server.start());
    const first = await listen(open(end, server.url, "ann"), "Tea");
    const chat = open(end, server.url, "bob");
    const room = await listen(chat, "tea");
    assert.deepEqual([room.name, chat.join("TEA") === room], ["Tea", true]);
    await room.publish("hello");
    await heard(first, "hello");
    await heard(room, "hello");
  },

  async through_a_cut_nothing_is_lost_and_nothing_is_doubled(end) {
    const server = end(await Server.start("--rate-limit", "0"));
    const path = end(await Path.start(server.port));
    const [talks, reads] = [open(end, server.url, "ann"), open(end, path.url, "bob")];
    const [from, to] = [await listen(talks, "tea"), await listen(reads, "tea")];
    const expected = [];
    for (let round = 0; round < 3; round++) {
      const [before, during] = [texts(`before${round} `, 20), texts(`during${round} `, 20)];
      const saying = say(from, before);
      await heard(to, before[5]);
      path.cut();
      await saying;
      await say(from, during);
      path.repair();
      reads.retry();
      await heard(to, during.at(-1));
      expected.push(...before, ...during);
    }
    assert.deepEqual(to.heard.filter((text) => !text.startsWith("again")), expected);
    assert.ok(!to.heard.includes("again false"));
  },

  async a_stalled_path_is_noticed_and_nothing_is_lost_or_doubled(end) {
    const server = end(await Server.start("--rate-limit", "0"));
    const path = end(await Path.start(server.port));
    const [talks, reads] = [open(end, server.url, "ann"), open(end, path.url, "bob")];
    const [from, to] = [await listen(talks, "tea"), await listen(reads, "tea")];
    await say(from, ["before"]);
    await heard(to, "before");
    path.stall();
    await say(from, texts("m", 30));
    reads.check(); // as a browser does when the network has changed; otherwise, 20 s of silence lead to this
    await heard(to, "m29");
    assert.deepEqual(to.heard, ["before", "again true", ...texts("m", 30)]);
    await to.publish("after");
    await heard(from, "after");
  },

  async silence_alone_leads_to_a_check(end) {
    const server = end(await Server.start());
    const path = end(await Path.start(server.port));
    const realSetTimeout = globalThis.setTimeout;
    // Twenty seconds of silence pass in a twentieth of that.
    globalThis.setTimeout = (act, ms, ...all) => realSetTimeout(act, ms === 20_000 ? 1_000 : ms === 8_000 ? 2_000 : ms, ...all);
    try {
      const room = await listen(open(end, path.url, "bob"), "tea");
      const other = await listen(open(end, server.url, "ann"), "tea");
      path.stall();
      await other.publish("while it is silent");
      await heard(room, "while it is silent");
      assert.deepEqual(room.heard, ["again true", "while it is silent"]);
    } finally {
      globalThis.setTimeout = realSetTimeout;
    }
  },

  async a_message_whose_acknowledgement_was_lost_is_settled_by_the_replay(end) {
    const server = end(await Server.start());
    const path = end(await Path.start(server.port));
    const witness = await listen(open(end, server.url, "witness"), "tea");
    const chat = open(end, path.url, "ann");
    const room = await listen(chat, "tea");
    path.deafen();
    const delivered = room.publish("delivered");
    await heard(witness, "delivered");
    path.stall();
    const lost = room.publish("lost");
    lost.catch(() => {});
    path.cut();
    path.repair();
    chat.retry();
    assert.ok((await delivered).seq > 0);
    await assert.rejects(lost, { code: "unknown" });
    assert.deepEqual(room.heard, ["again true", "delivered"]);
    assert.deepEqual(witness.heard, ["delivered"]);
  },

  async across_a_restart_the_client_returns_at_its_time_and_is_told_of_the_gap(end) {
    let server = await Server.start();
    const chat = open(end, server.url, "ann");
    const room = await listen(chat, "tea");
    await room.publish("before");
    const waiting = next(chat, "state", ({ state }) => state === "waiting");
    await server.stop();
    const { code, retryAt } = await waiting;
    assert.equal(code, 1012);
    server = end(await server.again());
    await until("the room again", () => room.state === "joined");
    assert.ok(Date.now() >= retryAt - 50, "not before the server's appointment");
    await room.publish("after");
    await heard(room, "after");
    assert.deepEqual(room.heard, ["before", "again false", "gap undefined", "after"]);
  },

  async a_server_that_was_killed_is_found_again(end) {
    let server = await Server.start();
    const chat = open(end, server.url, "ann");
    const room = await listen(chat, "tea");
    await server.stop("SIGKILL");
    await until("the loss", () => chat.state === "waiting");
    await assert.rejects(room.publish("x"), { code: "offline", temporary: true });
    server = end(await server.again());
    await until("the room again", () => room.state === "joined");
    await room.publish("after");
  },

  async more_than_the_server_keeps_is_a_gap(end) {
    const server = end(await Server.start("--rate-limit", "0", "--replay-frames", "10"));
    const path = end(await Path.start(server.port));
    const from = await listen(open(end, server.url, "ann"), "tea");
    const chat = open(end, path.url, "bob");
    const room = await listen(chat, "tea");
    path.cut();
    await say(from, texts("m", 40));
    path.repair();
    chat.retry();
    await until("the room again", () => room.state === "joined");
    await say(from, ["live"]);
    await heard(room, "live");
    assert.deepEqual(room.heard, ["again false", "gap undefined", "live"]);
  },

  async another_process_continues_where_one_ended(end) {
    const server = end(await Server.start());
    const from = await listen(open(end, server.url, "ann"), "tea");
    const first = open(end, server.url, "bob");
    const { position } = await listen(first, "tea");
    const { resume } = first;
    await say(from, texts("m", 3));
    const second = open(end, server.url, "bob", { resume });
    const room = second.join("tea", { since: position });
    const all = [];
    room.on("message", ({ text }) => all.push(text));
    await until("what was missed", () => all.length === 3);
    assert.deepEqual(all, texts("m", 3));
    await until("the end of the first", () => first.state === "closed");
  },

  async where_websockets_fail_rooms_are_read_as_events(end) {
    const server = end(await Server.start());
    const path = end(await Path.start(server.port, { drops: ["upgrade"] }));
    const from = await listen(open(end, server.url, "ann"), "tea");
    const chat = open(end, path.url, "bob");
    const room = await listen(chat, "tea");
    assert.equal(chat.state, "reading");
    await say(from, ["one"]);
    await heard(room, "one");
    path.cut();
    await until("the loss", () => chat.state !== "reading");
    await say(from, texts("m", 5));
    path.repair();
    await heard(room, "m4");
    assert.deepEqual(room.heard, ["one", "again true", ...texts("m", 5)]);
    await assert.rejects(room.publish("x"), { code: "read_only" });
    assert.equal(from.users, 1, "it is not a member");
  },

  async events_alone_need_no_name_and_announce_a_gap(end) {
    const server = end(await Server.start("--rate-limit", "0", "--replay-frames", "10"));
    const path = end(await Path.start(server.port));
    const from = await listen(open(end, server.url, "ann"), "tea");
    const chat = end(connect(path.url, { transport: "sse" }));
    const room = await listen(chat, "tea");
    await say(from, ["one"]);
    await heard(room, "one");
    path.cut();
    await until("the loss", () => chat.state !== "reading");
    await say(from, texts("m", 40));
    path.repair();
    await until("the gap", () => room.heard.some((text) => text.startsWith("gap")));
    await say(from, ["live"]);
    await heard(room, "live");
    assert.match(room.heard.join(), /^one,again true,gap \d+,live$/);
  },

  async a_silent_stream_is_opened_again(end) {
    const server = end(await Server.start("--ping-interval", "1s"));
    const path = end(await Path.start(server.port));
    const from = await listen(open(end, server.url, "ann"), "tea");
    const realSetTimeout = globalThis.setTimeout;
    // A minute of silence passes in a twentieth of that.
    globalThis.setTimeout = (act, ms, ...all) => realSetTimeout(act, ms === 60_000 ? 3_000 : ms, ...all);
    try {
      const room = await listen(end(connect(path.url, { transport: "sse" })), "tea");
      path.stall();
      await say(from, ["while it is silent"]);
      await heard(room, "while it is silent");
      assert.deepEqual(room.heard, ["again true", "while it is silent"]);
    } finally {
      globalThis.setTimeout = realSetTimeout;
    }
  },

  async what_waits_to_be_sent_is_bounded(end) {
    const server = end(await Server.start("--rate-limit", "0"));
    const path = end(await Path.start(server.port));
    const room = await listen(open(end, path.url, "ann"), "tea");
    path.clog();
    const text = "x".repeat(16_000);
    const outcomes = new Set();
    for (let sent = 0; sent < 5_000 && !outcomes.has("busy"); sent++) {
      room.publish(text).catch(({ code }) => outcomes.add(code));
      if (sent % 50 === 0) await new Promise((resolve) => setTimeout(resolve));
    }
    assert.deepEqual([...outcomes], ["busy"]);
  },

  async a_token_travels_beside_the_subprotocol(end) {
    const server = end(await Server.start());
    let asked = 0;
    const offers = [];
    const Native = options.WebSocket ?? WebSocket;
    class Noting extends Native {
      constructor(url, protocols) {
        super(url, protocols);
        offers.push(protocols);
      }
    }
    const token = async () => `t${++asked}`;
    const chat = end(connect(server.url, { name: "ann", token, WebSocket: Noting }));
    await chat.join("tea").joined;
    assert.deepEqual(offers, [["hi.v1", "hi.bearer.t1"]]);
  },

  async a_token_says_who_we_are_and_is_renewed_before_it_expires(end) {
    const server = end(await Server.startAsking());
    const seconds = () => Math.floor(Date.now() / 1000);
    let asked = 0;
    const fresh = () => token({ sub: "ann", exp: seconds() + (asked++ ? 600 : 3), rooms: { "*": ["join", "pub"], "raw:*": ["listen"] } });
    const chat = end(connect(server.url, { ...options, token: fresh }));
    const room = chat.join("tea");
    await room.joined;
    assert.equal(chat.name, "ann");
    let waits = 0;
    chat.on("state", ({ state }) => { if (state !== "connected") waits += 1; });
    await until("the second token", () => asked === 2);
    // Longer than the first token was good for.
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    await room.publish("still here");
    assert.deepEqual([waits, asked], [0, 2]);
    const scores = end(raw(server.url, "scores", { ...options, token: fresh }));
    await until("the raw room", () => scores.state === "connected");
    const listener = end(connect(server.url, { transport: "sse", token: fresh }));
    await listener.join("tea").joined;
  },

  async a_server_that_wants_a_token_is_not_asked_again_without_one(end) {
    const server = end(await Server.startAsking());
    const chat = end(connect(server.url, { ...options, name: "ann" }));
    const room = chat.join("tea");
    const { reason } = await next(chat, "state", ({ state }) => state === "closed");
    assert.equal(reason, "This server asks for a token.");
    await assert.rejects(room.joined, { code: "denied" });
  },

  async raw_rooms_carry_text_and_bytes(end) {
    const server = end(await Server.start());
    const path = end(await Path.start(server.port));
    const [sender, receiver] = [raw(server.url, "scores", { ...options, echo: false }), raw(path.url, "scores", options)].map(end);
    const all = [];
    sender.on("message", () => all.push("echo"));
    receiver.on("message", ({ data }) => all.push(typeof data === "string" ? data : [...new Uint8Array(data)]));
    for (const each of [sender, receiver]) await until("the connection", () => each.state === "connected");
    sender.send("1:0");
    sender.send(new Uint8Array([1, 2, 255]));
    await until("both", () => all.length === 2);
    path.cut();
    await until("the loss", () => receiver.state === "waiting");
    assert.throws(() => receiver.send("x"), { code: "offline" });
    path.repair();
    receiver.retry();
    await until("the connection", () => receiver.state === "connected");
    sender.send("2:0");
    await until("the third", () => all.length === 3);
    assert.deepEqual(all, ["1:0", [1, 2, 255], "2:0"]);
  },

  // Node's workers are no web workers, and have no WebSocket either.
  ...(globalThis.Worker && {
    async it_runs_in_a_worker(end) {
      const server = end(await Server.start());
      const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
      end({ stop: () => worker.terminate() });
      const heard = new Promise((resolve) => { worker.onmessage = ({ data }) => resolve(data); });
      worker.postMessage(server.url);
      assert.deepEqual(await heard, ["worker", "hello from a worker"]);
    },
  }),

  async after_the_end_nothing_stays(end) {
    const server = end(await Server.start());
    const chat = open(end, server.url, "ann");
    const room = await listen(chat, "tea");
    chat.close();
    await assert.rejects(room.publish("x"), { code: "offline" });
    const nowhere = open(end, "http://127.0.0.1:1/", "ann");
    const { joined } = nowhere.join("tea");
    nowhere.close();
    await assert.rejects(joined, { code: "closed" });
    assert.equal(chat.state, "closed");
  },
});
