// Clients of the unmodified SDK that do at random what applications do, and what happens
// to them, without waiting for anything: at the end all must be connected, subscribed,
// present once, and have got each publication once and in order, or been told that they
// were not recovered. Arguments: port, transport, seed, milliseconds.
import assert from "node:assert/strict"
import { Centrifuge } from "centrifuge"
import { EventSource } from "eventsource"
import WebSocket from "ws"

const [, , port, transport, seed, duration] = process.argv
const http = `http://127.0.0.1:${port}`
const paths = {
  websocket: `ws://127.0.0.1:${port}/connection/websocket`,
  http_stream: `${http}/connection/http_stream`,
  sse: `${http}/connection/sse`,
}
const network = new EventTarget()
let state = Number(seed)

function random(below) {
  state = (state * 1103515245 + 12345) & 0x7fffffff
  return (state >> 8) % below
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

function client(name) {
  return new Centrifuge([{ transport: name, endpoint: paths[name] }], {
    websocket: WebSocket, eventsource: EventSource, emulationEndpoint: `${http}/emulation`,
    minReconnectDelay: 5, maxReconnectDelay: 50, networkEventTarget: network,
  })
}

async function api(method, params) {
  const body = JSON.stringify(params)
  const answer = await fetch(`${http}/api/${method}`, { method: "POST", body })
  return answer.json()
}

const publisher = new Centrifuge(paths.websocket, { websocket: WebSocket })
publisher.connect()
const clients = Array.from({ length: 4 }, () => client(transport))
const channels = Array.from({ length: 4 }, (_, n) => `kept:race-${transport}-${n}`)
const published = Object.fromEntries(channels.map((channel) => [channel, 0]))

// A subscription, and what it has seen: numbers, and null where it begins anew.
function subscription(owner, channel) {
  const delays = { minResubscribeDelay: 5, maxResubscribeDelay: 50 }
  const sub = owner.newSubscription(channel, delays)
  const seen = []
  sub.on("publication", (context) => seen.push(context.data))
  sub.on("subscribed", (context) => { if (!context.recovered) seen.push(null) })
  return { owner, channel, sub, seen }
}

const all = clients.flatMap((each) => channels.map((name) => subscription(each, name)))

async function publish() {
  const channel = channels[random(channels.length)]
  published[channel] += 1
  await publisher.publish(channel, published[channel])
}

function manage({ owner, channel }) {
  if (!owner._client || random(4)) return
  const params = { user: "", client: owner._client }
  if (random(2)) api("unsubscribe", { ...params, channel })
  else api("disconnect", { ...params, disconnect: { code: 3000 + random(99), reason: "x" } })
}

async function lose() {
  if (random(20)) return
  network.dispatchEvent(new Event("offline"))
  if (random(2)) await pause(random(10))
  network.dispatchEvent(new Event("online"))
}

const actions = [
  ({ sub }) => sub.subscribe(),
  ({ sub }) => sub.subscribe(),
  ({ sub }) => sub.unsubscribe(),
  ({ owner }) => owner.connect(),
  ({ owner }) => { if (!random(3)) owner.disconnect() },
  publish, publish, publish, lose, manage,
]

const end = Date.now() + Number(duration)
while (Date.now() < end) {
  await actions[random(actions.length)](all[random(all.length)])
  if (!random(3)) await pause(random(8))
}

// All come to rest.
const isThere = ({ owner, sub }) => owner.state === "connected" && sub.state === "subscribed"
for (let tries = 0; tries < 200 && !all.every(isThere); tries++) {
  all.forEach(({ owner, sub }) => { owner.connect(); sub.subscribe() })
  await pause(50)
}
assert.deepEqual(all.filter((each) => !isThere(each)), [])
for (const channel of channels) await publisher.publish(channel, ++published[channel])
const isWhole = ({ seen, channel }) => seen.at(-1) === published[channel]
for (let tries = 0; tries < 200 && !all.every(isWhole); tries++) await pause(50)
for (const { seen, channel } of all) {
  assert.equal(seen.at(-1), published[channel])
  seen.forEach((number, at) => {
    if (at && number !== null && seen[at - 1] !== null) assert.equal(number, seen[at - 1] + 1)
  })
}
for (const channel of channels)
  assert.equal((await publisher.presenceStats(channel)).numClients, clients.length)
process.exit(0)
