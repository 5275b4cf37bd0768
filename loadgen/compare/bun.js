// What a user of Bun would write for this job: its own publish and subscribe, as its manual advises. Pings (Bun's own,
// for connections that are silent for a while) stay on, and up to 16 MB may be queued per connection: its defaults. A
// client with ?echo=0 only publishes.
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, server) {
    const url = new URL(request.url);
    const data = { room: url.pathname, receives: url.search !== "?echo=0" };
    return server.upgrade(request, { data }) ? undefined : new Response("a WebSocket, please", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    open(socket) {
      if (socket.data.receives) socket.subscribe(socket.data.room);
    },
    message(socket, message) {
      server.publish(socket.data.room, message);
    },
  },
});
console.log(`${server.hostname}:${server.port}`);
