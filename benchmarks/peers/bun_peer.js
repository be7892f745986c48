// Bun (uWebSockets). Broadcast by topic, as it is meant there.
// Window 15 with context takeover on both sides: the parameters all peers share.
const option = (name, fallback) => {
  const at = process.argv.indexOf("--" + name);
  return at < 0 ? fallback : process.argv[at + 1];
};
const deflate = option("deflate", "0") === "1";
const broadcast = option("mode", "echo") === "broadcast";
const limit = 64 << 20;

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(option("port", "0")),
  fetch(request, server) {
    if (!server.upgrade(request)) return new Response("WebSocket only", { status: 426 });
  },
  websocket: {
    perMessageDeflate: deflate ? { compress: "256KB", decompress: "dedicated" } : false,
    maxPayloadLength: Number(option("max-size", 2 << 20)),
    backpressureLimit: limit,
    open(ws) {
      if (broadcast) ws.subscribe("all");
    },
    message(ws, message) {
      if (broadcast) server.publish("all", message);
      else ws.send(message, deflate);
    },
  },
});
console.log(`PORT ${server.port}`);
