// client.js alone, with a socket and a clock that the test moves.
//
// usage: CLIENT=/path/of/client.mjs [SEEDS=40] node --test client_test.mjs
import assert from "node:assert/strict"
import { beforeEach, mock, test } from "node:test"

const { Centrifuge, UnauthorizedError } = await import(process.env.CLIENT)

let now, sockets, page
const settled = async () => { for (let n = 0; n < 20; n++) await Promise.resolve() }

/** Let time pass in small steps. */
async function pass(milliseconds) {
  const step = milliseconds > 1000 ? 50 : 1
  await settled()
  for (let passed = 0; passed < milliseconds; passed += step) {
    now += step
    mock.timers.tick(step)
    await settled()
  }
}

/** What the client believes to be a WebSocket. */
class Socket {
  bufferedAmount = 0
  heard = []

  constructor(url) {
    this.url = url
    sockets.push(this)
  }

  send(frame) {
    assert.equal(this.open, true, "a frame before the socket was open")
    this.heard.push(...frame.split("\n").map((line) => JSON.parse(line)))
  }

  close() { this.closed = true }

  /** The socket opens; the client connects. */
  async accept(result = {}) {
    this.open = true
    this.onopen({})
    await settled()
    const { id, connect } = this.heard.at(-1)
    await this.say({ id, connect: result })
    return connect
  }

  async say(...replies) {
    this.onmessage({ data: replies.map((each) => JSON.stringify(each)).join("\n") })
    await settled()
  }

  /** Answer the newest command. */
  async answer(method, result = {}) {
    const { id, [method]: params } = this.heard.at(-1)
    assert.ok(params, `${method} was not the newest of ${JSON.stringify(this.heard)}`)
    await this.say({ id, [method]: result })
    return params
  }

  async refuse(code, more = {}) {
    const { id } = this.heard.at(-1)
    await this.say({ id, error: { code, message: `error ${code}`, ...more } })
  }

  async drop(code = 1006, reason = "") {
    this.onclose({ code, reason })
    await settled()
  }
}

function client(options = {}) {
  const made = new Centrifuge("ws://server/live", { websocket: Socket, minReconnectDelay: 100, maxReconnectDelay: 1000, ...options })
  made.seen = []
  for (const event of ["connecting", "connected", "disconnected", "error"]) {
    made.on(event, (context) => made.seen.push([event, context.code ?? context.type, context.reason ?? context.error?.message]))
  }
  return made
}

async function connected(options, result) {
  const live = client(options)
  live.connect()
  await settled()
  await sockets.at(-1).accept(result)
  return live
}

/** Something happens to the page. */
async function happens(type, more = {}) {
  page.dispatchEvent(Object.assign(new Event(type), more))
  await settled()
}

beforeEach(() => {
  mock.timers.reset()
  mock.restoreAll()
  mock.timers.enable({ apis: ["setTimeout"] })
  now = 1000
  sockets = []
  page = new EventTarget()
  mock.method(performance, "now", () => now)
  mock.method(Math, "random", () => 0.5)
  globalThis.addEventListener = (...args) => page.addEventListener(...args)
  globalThis.document = { hidden: false }
})

test("delays grow at random up to a limit, and begin anew when it was connected", async () => {
  const live = client()
  live.connect()
  // 100 + half of 100, 200, 400, 800, 1000; at most 1000.
  for (const delay of [150, 200, 300, 500, 600, 600]) {
    const count = sockets.length
    await sockets.at(-1).drop()
    await pass(delay - 1)
    assert.equal(sockets.length, count)
    await pass(1)
    assert.equal(sockets.length, count + 1)
  }
  await sockets.at(-1).accept()
  await sockets.at(-1).drop()
  const count = sockets.length
  await pass(150)
  assert.equal(sockets.length, count + 1)
})

test("jitter is between the least delay and its double, and never above the most", async () => {
  for (const [random, delay] of [[0, 100], [1, 200]]) {
    mock.method(Math, "random", () => random)
    const live = client()
    live.connect()
    await sockets.at(-1).drop()
    const count = sockets.length
    await pass(delay - 1)
    assert.equal(sockets.length, count)
    await pass(1)
    assert.equal(sockets.length, count + 1)
    live.disconnect()
  }
})

test("an attempt that does not open, or is not answered, ends", async () => {
  const live = client({ timeout: 50 })
  live.connect()
  await pass(50)
  assert.deepEqual(live.seen.at(-1), ["error", "transport", "connect timeout"])
  assert.ok(sockets[0].closed)
  await pass(150)
  sockets[1].open = true
  sockets[1].onopen({})
  await pass(50)
  assert.deepEqual(live.seen.at(-1), ["error", "connect", "timeout"])
  await pass(200)
  await sockets[2].accept()
  assert.equal(live.state, "connected")
})

test("what an old socket says is not heard", async () => {
  const live = await connected()
  const [old] = sockets
  live.disconnect()
  live.connect()
  await old.say({ push: { disconnect: { code: 3500, reason: "x" } } })
  await old.drop(3500)
  assert.equal(live.state, "connecting")
  old.onopen({})
  await sockets[1].accept()
  assert.equal(live.state, "connected")
})

test("a server that is silent is left, one that speaks is not", async () => {
  const live = await connected({ maxServerPingDelay: 500 }, { ping: 1, pong: true })
  for (let n = 0; n < 5; n++) {
    await pass(1400)
    await sockets[0].say({})
    assert.deepEqual(sockets[0].heard.at(-1), {})
  }
  assert.equal(live.state, "connected")
  await pass(1500)
  assert.equal(live.state, "connected")
  await pass(2)
  assert.deepEqual(live.seen.at(-1), ["connecting", 2, "no ping"])
})

test("a server without pings, or without a delay, is never left", async () => {
  for (const [options, result] of [[{}, {}], [{ maxServerPingDelay: 0 }, { ping: 1 }]]) {
    const live = await connected(options, result)
    await pass(30000)
    assert.equal(live.state, "connected")
    await sockets.at(-1).say({})
    assert.equal(sockets.at(-1).heard.length, 1)  // no pong: it was not asked for
  }
})

test("it comes back at once when the network or the page does", async () => {
  for (const [type, more] of [["online"], ["visibilitychange"], ["pageshow", { persisted: true }]]) {
    const live = await connected({ minReconnectDelay: 60000, maxReconnectDelay: 60000 })
    await sockets.at(-1).drop()
    const count = sockets.length
    await happens(type, more)
    assert.equal(sockets.length, count + 1, type)
    await happens(type, more)  // one that is on its way is enough
    assert.equal(sockets.length, count + 1, type)
    live.disconnect()
  }
})

test("it does not for a page that is hidden or only shown for the first time", async () => {
  await connected({ minReconnectDelay: 60000, maxReconnectDelay: 60000 })
  await sockets[0].drop()
  await happens("pageshow", { persisted: false })
  document.hidden = true
  await happens("visibilitychange")
  assert.equal(sockets.length, 1)
})

test("it lets go when the network or the page goes", async () => {
  for (const [type, more] of [["offline"], ["pagehide", { persisted: true }]]) {
    const live = await connected()
    await happens(type, more)
    assert.deepEqual(live.seen.at(-1), ["connecting", 1, type])
    assert.ok(sockets.at(-1).closed)
    live.disconnect()
  }
  const live = await connected()
  await happens("pagehide", { persisted: false })
  assert.equal(live.state, "connected")
})

test("a page that is shown again asks whether the server is there", async () => {
  const live = await connected({ timeout: 50 })
  await happens("visibilitychange")
  await sockets[0].answer("ping")
  await pass(50)
  assert.equal(live.state, "connected")
  await happens("visibilitychange")
  await pass(50)
  assert.deepEqual(live.seen.at(-1), ["connecting", 2, "no ping"])
})

test("a client that is disconnected does not watch the page", async () => {
  const live = await connected()
  live.disconnect()
  await happens("online")
  await happens("offline")
  assert.equal(sockets.length, 1)
  assert.deepEqual(live.seen.at(-1), ["disconnected", 0, "disconnect called"])
})

test("calls keep their order and what they said when they were made", async () => {
  const live = client()
  const data = { n: 0 }
  const early = live.publish("a", data)
  data.n = 1
  live.connect()
  await settled()
  live.rpc("b", 2).catch(() => {})
  live.send(3)
  live.once("connected", () => live.publish("d", 4).catch(() => {}))
  await sockets[0].accept()
  const [, ...heard] = sockets[0].heard
  assert.deepEqual(heard.map(({ id, ...rest }) => rest), [
    { publish: { channel: "a", data: { n: 0 } } }, { rpc: { method: "b", data: 2 } }, { send: { data: 3 } },
    { publish: { channel: "d", data: 4 } },
  ])
  await sockets[0].say({ id: heard[0].id, publish: {} })
  assert.deepEqual(await early, {})
})

test("calls are rejected: in time, with the connection, and when it is not wanted", async () => {
  const live = client({ timeout: 50 })
  const code = (promise) => promise.then(() => 0, (error) => (assert.ok(error instanceof Error), error.code))
  const late = code(live.publish("a", 1))
  await pass(50)
  assert.equal(await late, 1)
  const unwanted = code(live.publish("a", 1))
  live.disconnect()
  assert.equal(await unwanted, 3)
  live.connect()
  await settled()
  await sockets[0].accept()
  const silent = code(live.rpc("a"))
  await pass(50)
  assert.equal(await silent, 1)
  const lost = code(live.rpc("a"))
  await settled()
  await sockets[0].drop()
  assert.equal(await lost, 11)
  assert.equal(await code(live.newSubscription("x").publish(1)), 7)
  assert.equal(await code(live.publish("a", 1n)), undefined)  // JSON has no such number
})

test("ready waits, for a while if it is told so", async () => {
  const live = client()
  await assert.rejects(live.ready(), { code: 3 })
  live.connect()
  const [ready, soon] = [live.ready(), live.ready(10).catch(({ code }) => code)]
  await pass(10)
  assert.equal(await soon, 1)
  await sockets[0].accept()
  await ready
  await live.ready()
})

test("many subscriptions go out in few frames, none too large", async () => {
  const live = await connected()
  const frames = mock.method(sockets[0], "send")
  for (let n = 0; n < 1000; n++) live.newSubscription(`channel:${n}`).subscribe()
  await settled()
  const sizes = frames.mock.calls.map(({ arguments: [frame] }) => frame.length)
  assert.ok(sizes.length < 10 && Math.max(...sizes) <= 16384, sizes.join())
  live.publish("large", "x".repeat(100_000)).catch(() => {})
  live.publish("small", "x").catch(() => {})
  await settled()
  assert.deepEqual(sockets[0].heard.slice(-2).map(({ publish }) => publish.channel), ["large", "small"])
})

test("a subscription is left before it is taken again, whatever came meanwhile", async () => {
  const live = await connected()
  const room = live.newSubscription("room", { recoverable: true })
  room.subscribe()
  await settled()
  const first = sockets[0].heard.at(-1).id
  room.unsubscribe()
  room.subscribe()
  await settled()
  const kinds = sockets[0].heard.slice(1).map((each) => Object.keys(each)[1])
  assert.deepEqual(kinds, ["subscribe", "unsubscribe", "subscribe"])
  await sockets[0].say({ id: first, subscribe: {} })
  assert.equal(room.state, "subscribing")
  await sockets[0].answer("subscribe")
  assert.equal(room.state, "subscribed")
})

test("an unsubscription that fails, or a subscription without an answer, begins anew", async () => {
  const live = await connected({ timeout: 50 })
  const room = live.newSubscription("room")
  room.subscribe()
  await pass(50)
  assert.deepEqual(live.seen.at(-1), ["connecting", 3, "subscribe timeout"])
  await pass(150)
  await sockets[1].accept()
  await sockets[1].answer("subscribe")
  room.unsubscribe()
  await settled()
  await sockets[1].refuse(100, { temporary: true })
  assert.deepEqual(live.seen.at(-1), ["connecting", 4, "unsubscribe error"])
})

test("a place in a history is kept, also in the middle of what was missed", async () => {
  const live = await connected()
  const room = live.newSubscription("room", { since: { offset: 7, epoch: "old" } })
  const seen = []
  room.on("publication", ({ data }) => {
    seen.push(data)
    if (data === "b") room.unsubscribe()
  })
  room.subscribe()
  await settled()
  const missed = [[8, "a"], [9, "b"], [10, "c"]].map(([offset, data]) => ({ offset, data }))
  const asked = await sockets[0].answer("subscribe", {
    recoverable: true, positioned: true, was_recovering: true, recovered: true, epoch: "new", offset: 10, publications: missed,
  })
  assert.deepEqual([asked.recover, asked.offset, asked.epoch], [true, 7, "old"])
  assert.deepEqual(seen, ["a", "b"])
  room.subscribe()
  await settled()
  const again = await sockets[0].answer("subscribe", {
    recoverable: true, recovered: true, epoch: "new", offset: 10, publications: missed.slice(2),
  })
  assert.deepEqual([again.recover, again.offset, again.epoch], [true, 9, "new"])
  assert.deepEqual(seen, ["a", "b", "c"])
  await sockets[0].say({ push: { channel: "room", pub: { offset: 11, data: "d" } } })
  await sockets[0].drop()
  await pass(150)
  await sockets[1].accept()
  assert.equal(sockets[1].heard.at(-1).subscribe.offset, 11)
})

test("a channel that is not recoverable is not asked for what was missed", async () => {
  const live = await connected()
  const room = live.newSubscription("room", { since: { offset: 7, epoch: "old" } })
  room.subscribe()
  await settled()
  await sockets[0].answer("subscribe", {})
  room.unsubscribe()
  room.subscribe()
  await settled()
  assert.equal(sockets[0].heard.at(-1).subscribe.recover, undefined)
})

test("pushes of other kinds change nothing", async () => {
  const live = await connected({}, { subs: { served: {} } })
  const room = live.newSubscription("room")
  room.subscribe()
  await settled()
  await sockets[0].answer("subscribe")
  const states = []
  room.on("state", ({ newState }) => states.push(newState))
  live.on("unsubscribed", ({ channel }) => states.push(channel))
  for (const channel of ["room", "served", "other"]) await sockets[0].say({ push: { channel, tomorrow: {} } })
  assert.deepEqual(states, [])
  for (const channel of ["room", "served", "other"]) await sockets[0].say({ push: { channel, unsubscribe: { code: 2000 } } })
  assert.deepEqual(states, ["unsubscribed", "served"])
})

test("a subscription that was removed is not taken again", async () => {
  const live = await connected()
  const room = live.newSubscription("room")
  live.removeSubscription(room)
  live.removeSubscription(null)
  assert.throws(() => room.subscribe(), { code: 7 })
  const other = live.newSubscription("room")
  live.removeSubscription(room)  // not the newer one
  assert.equal(live.getSubscription("room"), other)
})

test("tokens are refreshed before they expire, and asked for again if that fails", async () => {
  const tokens = ["a", new Error("no network"), "b", "c", null]
  const getToken = async () => {
    const token = tokens.shift()
    if (token instanceof Error) throw token
    return token
  }
  const live = await connected({ getToken }, { expires: true, ttl: 10 })
  await pass(9000)
  assert.deepEqual(live.seen.at(-1), ["error", "refreshToken", "no network"])
  await pass(7500)
  assert.deepEqual(sockets[0].heard.at(-1).refresh, { token: "b" })
  await sockets[0].refuse(100, { temporary: true })
  assert.equal(live.seen.at(-1)[1], "refresh")
  await pass(7500)
  await sockets[0].answer("refresh", { expires: true, ttl: 1 })
  await pass(1000)
  assert.deepEqual(live.seen.at(-1), ["disconnected", 1, "unauthorized"])
})

test("a token that has expired is replaced, if there is a way to get one", async () => {
  const tokens = ["old", "new"]
  const live = client({ getToken: () => tokens.shift() })
  live.connect()
  await settled()
  sockets[0].open = true
  sockets[0].onopen({})
  await settled()
  await sockets[0].refuse(109)
  await pass(150)
  assert.equal((await sockets[1].accept()).token, "new")
  const other = client({ token: "old" })
  other.connect()
  await settled()
  sockets[2].open = true
  sockets[2].onopen({})
  await settled()
  await sockets[2].refuse(109)
  assert.deepEqual(other.seen.at(-1), ["disconnected", 109, "error 109"])
})

test("functions that answer too late, or never, are not waited for", async () => {
  let answer
  const live = client({ getToken: () => new Promise((resolve) => { answer = resolve }) })
  live.connect()
  await settled()
  const late = answer
  live.disconnect()
  late("late")
  await settled()
  assert.equal(sockets.length, 0)
  live.connect()
  await settled()
  await happens("online")  // the first one may never come
  answer("token")
  await settled()
  assert.equal((await sockets[0].accept()).token, "token")
})

test("UnauthorizedError ends it", async () => {
  const refused = () => { throw new UnauthorizedError() }
  const live = client({ getData: refused })
  live.connect()
  await settled()
  assert.deepEqual(live.seen.at(-1), ["disconnected", 1, "unauthorized"])
  const other = await connected()
  const room = other.newSubscription("room", { getToken: refused })
  const told = []
  room.on("unsubscribed", (context) => told.push(context))
  room.subscribe()
  await settled()
  assert.deepEqual(told, [{ channel: "room", code: 1, reason: "unauthorized" }])
})

test("listeners may do what they like", async () => {
  const live = client()
  live.on("connecting", () => live.disconnect())
  live.connect()
  assert.equal(live.state, "disconnected")
  assert.equal(sockets.length, 0)
  const other = client()
  other.on("connected", () => { other.disconnect(); other.connect() })
  other.connect()
  other.send(1)
  await settled()
  await sockets[0].accept()
  assert.equal(other.state, "connecting")
  const states = []
  const third = await connected()
  const room = third.newSubscription("room")
  room.on("state", ({ newState }) => states.push(newState))
  room.on("unsubscribed", () => room.subscribe())
  room.subscribe()
  await settled()
  await sockets.at(-1).answer("subscribe")
  room.unsubscribe()
  await settled()
  await sockets.at(-1).answer("subscribe")
  assert.deepEqual(states, ["subscribing", "subscribed", "unsubscribed", "subscribing", "subscribed"])
})

test("listeners are called once, in order, until they are taken away", () => {
  const live = client()
  const seen = []
  const [first, second] = [() => seen.push(1), () => seen.push(2)]
  live.on("state", first).on("state", first).once("state", second)
  live.connect()
  live.off("state", first).disconnect()
  assert.deepEqual(seen, [1, 2])
  live.once("state", second).removeListener("state", second).connect()
  assert.deepEqual(seen, [1, 2])
})

test("addresses may be those of pages", () => {
  globalThis.location = { href: "https://example.org/a/page" }
  for (const [url, address] of [["/live", "wss://example.org/live"], ["http://x/y", "ws://x/y"], ["wss://x/y", "wss://x/y"]]) {
    new Centrifuge(url, { websocket: Socket }).connect()
    assert.equal(sockets.at(-1).url, address)
  }
  delete globalThis.location
  assert.throws(() => new Centrifuge("/live"), TypeError)
})

/** Numbers that are the same every time, from 0 to `below`. */
function dice(seed) {
  return (below) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
    return Math.floor(seed / 2 ** 32 * below)
  }
}

const WORDS = [
  "id", "error", "code", "message", "temporary", "connect", "client", "subs", "ping", "pong", "expires", "ttl", "subscribe",
  "recoverable", "positioned", "recovered", "publications", "offset", "epoch", "push", "channel", "pub", "data", "info", "tags",
  "join", "leave", "unsubscribe", "disconnect", "reason", "presence", "history", "rpc", "room", "served", "__proto__", "constructor",
]
const VALUES = [null, true, false, 0, 1, -1, 2500, 3000, 3500, 1e300, 0.5, "", "x", [], {}]

/** Any JSON, most of it with the words of the protocol. */
function anything(roll, depth = 0) {
  const kind = roll(10)
  if (depth > 4 || kind < 2) return VALUES[roll(VALUES.length)]
  if (kind < 3) return WORDS[roll(WORDS.length)]
  if (kind < 4) return Array.from({ length: roll(4) }, () => anything(roll, depth + 1))
  if (kind < 5) return roll(60)
  const entries = Array.from({ length: 1 + roll(4) }, () => [WORDS[roll(WORDS.length)], anything(roll, depth + 1)])
  return Object.fromEntries(entries)
}

/** Likewise, but with the shape of a reply or a push. */
function almost(roll) {
  const channel = ["room", "served", "new"][roll(3)]
  const kind = ["pub", "join", "leave", "message", "subscribe", "unsubscribe", "disconnect", "refresh"][roll(8)]
  if (roll(2)) return { push: { channel, [kind]: anything(roll) } }
  const method = ["connect", "subscribe", "unsubscribe", "publish", "history", "presence", "rpc", "error", "refresh"][roll(9)]
  return { id: roll(60), [method]: anything(roll) }
}

test("whatever a server says, it goes on", async () => {
  const problems = []
  const note = (error) => problems.push(error)
  process.on("uncaughtException", note)
  process.on("unhandledRejection", note)
  const plain = JSON.stringify(Object.getOwnPropertyNames(Object.prototype))
  for (let seed = 1; seed <= Number(process.env.SEEDS ?? 40); seed++) {
    const roll = dice(seed)
    const live = client({ getToken: () => "token" })
    const room = live.newSubscription("room", { recoverable: true, minResubscribeDelay: 100, getToken: () => "token" })
    live.connect()
    room.subscribe()
    await settled()
    for (let n = 0; n < 20; n++) {
      const socket = sockets.at(-1)
      if (!socket.open) {
        socket.open = true
        socket.onopen({})
      }
      if (!roll(3)) {
        for (const { id, connect } of socket.heard.slice(-3)) if (id) await socket.say({ id, [connect ? "connect" : "subscribe"]: { pong: true, recoverable: true } })
      }
      live.publish("room", 1).catch(() => {})
      room.history({ limit: 1 }).catch(() => {})
      await socket.say(roll(2) ? anything(roll) : almost(roll))
      if (!roll(3)) await pass(1050)
    }
    for (const each of [live, room]) assert.ok(["disconnected", "connecting", "connected", "unsubscribed", "subscribing", "subscribed"].includes(each.state))
    // It works once the server does.
    live.disconnect()
    room.unsubscribe()
    live.connect()
    room.subscribe()
    await settled()
    await sockets.at(-1).accept()
    await settled()
    await sockets.at(-1).answer("subscribe")
    assert.equal(room.state, "subscribed", `seed ${seed}`)
    live.disconnect()
    await settled()
  }
  process.off("uncaughtException", note)
  process.off("unhandledRejection", note)
  assert.deepEqual(problems, [])
  assert.equal(JSON.stringify(Object.getOwnPropertyNames(Object.prototype)), plain)
})
