// Drives the unmodified SDK `centrifuge` (npm); test_sdk_js.py runs it with the port of
// a server and a transport, and reads what it says: one line for each thing that it has
// seen.
import { Centrifuge } from "centrifuge"
import { EventSource } from "eventsource"
import WebSocket from "ws"

const [port, transport] = process.argv.slice(2)
const at = `http://127.0.0.1:${port}/live`
const clients = []

function client(options = {}, by = transport) {
  const place = by === "websocket" ? at.replace("http", "ws") : at
  const made = new Centrifuge([{ transport: by, endpoint: `${place}/${by}` }], {
    websocket: WebSocket, eventsource: EventSource, emulationEndpoint: `${at}/emulation`,
    minReconnectDelay: 10, maxReconnectDelay: 100, ...options,
  })
  clients.push(made)
  return made
}

function until(condition, what) {
  const begun = Date.now()
  return new Promise((resolve, reject) => {
    const look = () => {
      if (condition()) resolve()
      else if (Date.now() - begun > 15000) reject(new Error(`${what} did not come`))
      else setImmediate(look)
    }
    look()
  })
}

const say = (what, value) => console.log(JSON.stringify([what, value]))

const one = client({ data: { who: "ann" } })
const connected = []
one.on("connected", (context) => connected.push(context))
const room = one.newSubscription("room:1", { recoverable: true, joinLeave: true })
let publications = []
const subscribed = [], joined = []
room.on("publication", (publication) => publications.push(publication))
room.on("subscribed", (context) => subscribed.push(context))
room.on("join", (context) => joined.push(context.info.client))

// At once, in this order: the SDK waits for nothing.
room.subscribe()
one.connect()
await room.ready(15000)
say("connected", connected[0].data)

await room.publish({ text: "hello" })
await until(() => publications.length === 1, "a publication")
say("publication", [publications[0].data, publications[0].offset])
say("rpc", (await one.rpc("add", [1, 2])).data)
await one.rpc("nothing", null).catch((error) => say("error", error.code))
const history = await room.history({ limit: 10, since: { offset: 0, epoch: "" } })
say("history", history.publications.map((each) => each.data))
await until(() => joined.length === 1, "a join")
say("joined", joined[0] === connected[0].client)
say("presence", Object.keys((await room.presence()).clients).length)
say("stats", (await room.presenceStats()).numClients)

// Many in one frame.
const many = Array.from({ length: 500 }, (_, n) => one.newSubscription(`many:${n}`))
many.forEach((each) => each.subscribe())
await Promise.all(many.map((each) => each.ready(15000)))
say("many", many.length)

// Loops without waiting.
for (let n = 0; n < 50; n++) { room.unsubscribe(); room.subscribe() }
await room.ready(15000)
for (let n = 0; n < 30; n++) { one.disconnect(); one.connect() }
await room.ready(15000)
say("loops", one.state)

// What is published while it is away comes once, in order.
const other = client({}, "websocket")  // requests of their own have no order
other.connect()
await other.ready(15000)
publications = []
one.disconnect()
await Promise.all(Array.from({ length: 300 }, (_, n) => other.publish("room:1", n)))
one.connect()
await until(() => publications.length >= 300, "what was missed")
say("missed", publications.every((each, n) => each.data === n) && publications.length)
say("recovered", subscribed.at(-1).recovered)

// A connection that is cut.
let count = connected.length
await other.rpc("cut", connected.at(-1).client)
await until(() => connected.length > count && room.state === "subscribed", "the return")
say("recovered", subscribed.at(-1).recovered)

// Messages that are missing are told by a subscription that is not recovered.
count = subscribed.length
await other.rpc("gap", null)
await until(() => subscribed.length > count, "a new subscription")
say("again", subscribed.at(-1).wasRecovering)

clients.forEach((each) => each.disconnect())
process.exit(0)
