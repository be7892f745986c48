// Bun (uWebSockets). Broadcast by topic, as it is meant there.
// Window 15 with context takeover on both sides: the parameters all peers share.
const option = (name, fallback) => {
  const at = process.argv.indexOf("--" + name);
  return at < 0 ? fallback : process.argv[at + 1];
};
const deflate = option("deflate", "0") === "1";
const mode = option("mode", "echo");
const topic = (ws) => (mode === "topics" ? ws.data.topic : "all");
const limit = 64 << 20;

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(option("port", "0")),
  fetch(request, server) {
    const data = { topic: mode === "topics" ? new URL(request.url).pathname : "" };
    if (!server.upgrade(request, { data })) return new Response("WebSocket only", { status: 426 });
  },
  websocket: {
    perMessageDeflate: deflate ? { compress: "256KB", decompress: "dedicated" } : false,
    maxPayloadLength: Number(option("max-size", 2 << 20)),
    backpressureLimit: limit,
    open(ws) {
      if (mode !== "echo") ws.subscribe(topic(ws));
    },
    message(ws, message) {
      if (mode !== "echo") server.publish(topic(ws), message);
      else ws.send(message, deflate);
    },
  },
});
console.log(`PORT ${server.port}`);
