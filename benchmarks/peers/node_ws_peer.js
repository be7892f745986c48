// ws on Node.js, without its optional native helpers.
const { WebSocketServer, WebSocket } = require("ws");

const option = (name, fallback) => {
  const at = process.argv.indexOf("--" + name);
  return at < 0 ? fallback : process.argv[at + 1];
};
const broadcast = option("mode", "echo") === "broadcast";

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(option("port", "0")),
  backlog: 4096,
  maxPayload: Number(option("max-size", 2 << 20)),
  perMessageDeflate:
    option("deflate", "0") === "1"
      ? { threshold: 0, zlibDeflateOptions: { level: 6, memLevel: 8 } }
      : false,
});
server.on("connection", (client) => {
  client.on("error", () => {});
  client.on("message", (data, isBinary) => {
    if (!broadcast) return client.send(data, { binary: isBinary });
    for (const receiver of server.clients)
      if (receiver.readyState === WebSocket.OPEN) receiver.send(data, { binary: isBinary });
  });
});
server.on("listening", () => console.log(`PORT ${server.address().port}`));
