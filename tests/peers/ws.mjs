// Talks to an echo server with the npm package `ws`, as whole/test_peers.py asks.
//
// Takes the folder of the package, the server's address and a list of options of
// permessage-deflate (JSON; false for none). Prints a line of JSON for each.

import { createRequire } from "node:module";
import { randomBytes } from "node:crypto";

const [folder, url, list] = process.argv.slice(2);
const WebSocket = createRequire(folder + "/")("ws");

const compressible = "All work and no play makes Jack a dull boy. ".repeat(25000);
const MESSAGES = [
  "text",
  "",
  "é 😀",
  Buffer.from([0, 1, 255]),
  Buffer.alloc(0),
  randomBytes(1 << 20),
  compressible.slice(0, 1 << 20),
  ...Array.from({ length: 20 }, (_, n) => compressible.slice(n, n + 3000)),
];

function once(socket, name) {
  return new Promise((resolve, reject) => {
    socket.once(name, (...values) => resolve(values));
    socket.once("error", reject);
  });
}

async function converse(perMessageDeflate) {
  const socket = new WebSocket(url, { perMessageDeflate });
  await once(socket, "open");
  for (const message of MESSAGES) {
    socket.send(message);
    const [data, isBinary] = await once(socket, "message");
    const sent = Buffer.from(message);
    if (isBinary !== Buffer.isBuffer(message) || !data.equals(sent)) {
      throw new Error(`${sent.length} bytes came back as ${data.length}`);
    }
  }
  socket.ping("are you there");
  const [pong] = await once(socket, "pong");
  const answered = pong.toString() === "are you there";
  socket.send("ping me");
  const [ping] = await once(socket, "ping");
  const extensions = socket.extensions;
  let closed = once(socket, "close");
  socket.close(4001, "from node");
  const ours = await closed;

  const second = new WebSocket(url, { perMessageDeflate });
  await once(second, "open");
  closed = once(second, "close");
  second.send("close me");
  const theirs = await closed;
  return {
    extensions,
    answered,
    ping: ping.toString(),
    ours: [ours[0], ours[1].toString()],
    theirs: [theirs[0], theirs[1].toString()],
  };
}

for (const options of JSON.parse(list)) {
  console.log(JSON.stringify(await converse(options)));
}
