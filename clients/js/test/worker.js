// The client in a worker: joins, says hello, and reports what it hears.

import { connect } from "../hi.js";

onmessage = async ({ data: url }) => {
  const chat = connect(url, { name: "worker" });
  const room = chat.join("tea");
  room.on("message", ({ from, text }) => postMessage([from, text]));
  await room.publish("hello from a worker");
};
