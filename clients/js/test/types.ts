// Compiled, never run: what hi.d.ts says about a program that uses everything.

import WebSocket from "ws";
import { Chat, connect, fold, HiError, raw, Raw, Room, type Gap, type Message, type Position } from "hi-client";

const chat: Chat = connect(new URL("http://localhost:8080/"), { name: "ada", WebSocket, token: async () => "x", transport: "auto" });
const room: Room = chat.join("tea", { since: { Epoch: "1", Seq: 2 } });
const off: () => void = room.on("message", ({ from, text, time, own }: Message) => [from.length, text.length, time + 1, !own]);
room.on("gap", ({ missed = 0 }: Gap) => missed + 1);
room.on("joined", ({ recovered }) => recovered === true);
chat.on("state", ({ state, retryAt }) => state === "waiting" && retryAt);
// @ts-expect-error: there is no such event
room.on("mesage", () => {});
// @ts-expect-error: rooms come from a chat
new Room();
const position: Position | undefined = room.position;
const { seq }: { seq: number } = await room.publish("x");
const { users, count } = await room.who();
const { rooms } = await chat.list();
const scores: Raw = raw("ws://localhost:8080/ws", "scores", { echo: false });
scores.on("message", ({ data }) => (typeof data === "string" ? data : data.byteLength));
scores.send(new Uint8Array(1));
const error = new HiError("offline", "x");
const code: string = error.code;
export default [off, position, seq, users[0], count, rooms[0].name, code, fold("A")];
