// Bun (uWebSockets) as the server of `latest.py`: keys, changes a second, bytes of a
// message, backpressureLimit.
const [keys, changes, size, limit] = process.argv.slice(2).map(Number);

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, server) {
    if (!server.upgrade(request)) return new Response("WebSocket only", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    backpressureLimit: limit,
    closeOnBackpressureLimit: false,
    open(ws) { ws.subscribe("board"); },
    message() {},
  },
});

let ticks = 0;
setInterval(() => {
  const rare = ++ticks % changes;  // the last key changes once a second
  for (let key = 0; key < (rare ? keys - 1 : keys); key++) {
    const values = { key, time: Date.now() / 1000, more: "" };
    values.more = "x".repeat(size - JSON.stringify(values).length);
    server.publish("board", JSON.stringify(values));
  }
}, 1000 / changes);
console.log(`PORT ${server.port}`);
