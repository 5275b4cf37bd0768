// What the tests share: a real server, a path to it that can fail, and waiting for events.

import { spawn } from "node:child_process";
import { Buffer } from "node:buffer";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";

const PATIENCE_MS = 20_000;
const { HI_BIN } = process.env;
if (!HI_BIN) throw new Error("HI_BIN is not set: the path of the server to test with");

const running = new Set();
process.on("exit", () => running.forEach((server) => server.kill("SIGKILL")));

/** Waits until `met` returns something that is not false. */
export async function until(what, met) {
  for (const deadline = Date.now() + PATIENCE_MS; ;) {
    const found = await met();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`waited in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const within = (what, promise) => {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`waited in vain for: ${what}`)), PATIENCE_MS); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

/** The next event of this type. */
export const next = (emitter, type, isIt = () => true) =>
  within(type, new Promise((resolve) => {
    const off = emitter.on(type, (event) => isIt(event) && (off(), resolve(event)));
  }));

export const SECRET = "0123456789abcdef0123456789abcdef";

/** A token for a server that checks with the secret. */
export async function token(claims) {
  const encode = (bytes) => Buffer.from(bytes).toString("base64url");
  const message = [{ alg: "HS256" }, claims].map((part) => encode(JSON.stringify(part))).join(".");
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", Buffer.from(SECRET), algorithm, false, ["sign"]);
  return `${message}.${encode(new Uint8Array(await crypto.subtle.sign("HMAC", key, Buffer.from(message))))}`;
}

export class Server {
  static async start(...args) {
    return Server.startOn(0, ...args);
  }

  static async startOn(port, ...args) {
    const server = new Server();
    server.args = args;
    server.process = spawn(HI_BIN, ["--listen", `127.0.0.1:${port}`, "--internal", "off", "--shards", "2", ...args], { stdio: ["ignore", "ignore", "pipe"] });
    server.log = "";
    server.ended = new Promise((resolve) => server.process.once("exit", resolve));
    server.process.stderr.setEncoding("utf8").on("data", (text) => { server.log += text; });
    running.add(server.process);
    const line = await until("the server", () => /is open at http:\/\/127\.0\.0\.1:(\d+)/.exec(server.log));
    server.port = Number(line[1]);
    return server;
  }

  /** A server that asks for tokens. */
  static async startAsking(...args) {
    const folder = mkdtempSync(join(tmpdir(), "hi-key-"));
    writeFileSync(join(folder, "secret"), SECRET);
    try {
      return await Server.start("--auth", "required", "--jwt-key", join(folder, "secret"), "--jwt-leeway", "0", ...args);
    } finally {
      rmSync(folder, { recursive: true });
    }
  }

  get url() {
    return `http://127.0.0.1:${this.port}/`;
  }

  async stop(signal = "SIGTERM") {
    this.process.kill(signal);
    await within("the end of the server", this.ended);
  }

  /** The next server on the same port. */
  again() {
    return Server.startOn(this.port, ...this.args);
  }
}

/** A proxy between client and server that can stall, cut, or drop the headers of WebSockets. */
export class Path {
  isStalled = false;
  isDown = false;
  #sockets = new Set();

  static async start(port, { drops = [] } = {}) {
    const path = new Path();
    path.listener = net.createServer((near) => path.#carry(near, net.connect(port, "127.0.0.1"), drops));
    await new Promise((resolve) => path.listener.listen(0, "127.0.0.1", resolve));
    path.url = `http://127.0.0.1:${path.listener.address().port}/`;
    return path;
  }

  #carry(near, far, drops) {
    if (this.isDown) return [near, far].forEach((socket) => socket.destroy());
    const pair = { isStalled: false, near, far };
    this.#sockets.add(pair);
    const pass = (to) => (data) => {
      if (pair.isStalled) return;
      const isHead = drops.length && /^GET /.test(data.toString("latin1"));
      const kept = isHead ? data.toString("latin1").split("\r\n").filter((line) => !drops.includes(line.split(":")[0].toLowerCase())) : null;
      to.write(kept ? Buffer.from(kept.join("\r\n"), "latin1") : data);
    };
    for (const [from, to] of [[near, far], [far, near]]) {
      from.on("data", pass(to));
      from.on("error", () => {});
      from.on("close", () => pair.isStalled || to.destroy());
    }
  }

  /** The connections that are open now carry nothing any more, and neither end is told. New ones work. */
  stall() {
    for (const pair of this.#sockets) pair.isStalled = true;
  }

  /** What the server sends is lost; what the client sends arrives. */
  deafen() {
    for (const pair of this.#sockets) pair.far.removeAllListeners("data").resume();
  }

  /** What the client sends isn't read any more. */
  clog() {
    for (const { near } of this.#sockets) near.pause();
  }

  /** Breaks all connections, and lets no new one through until `repair`. */
  cut() {
    this.isDown = true;
    for (const { near, far } of this.#sockets) [near, far].forEach((socket) => socket.destroy());
    this.#sockets.clear();
  }

  repair() {
    this.isDown = false;
  }

  close() {
    this.cut();
    this.listener.close();
  }
}

/** Runs tests one after the other; those named on the command line, or all. Fails the process if one fails. */
export async function run(tests) {
  const wanted = process.argv.slice(2);
  let failed = 0;
  for (const [name, test] of Object.entries(tests)) {
    if (wanted.length && !wanted.some((part) => name.includes(part))) continue;
    const ends = [];
    const began = Date.now();
    try {
      await within(`the end of the test ${name}`, test((end) => (ends.push(end), end)));
      console.log(`ok ${name} (${Date.now() - began} ms)`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}: ${error?.stack ?? error}`);
    }
    for (const end of ends.reverse()) await (end.close ?? end.stop).call(end);
  }
  process.exit(failed ? 1 : 0);
}
