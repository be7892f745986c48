// What applications do with the unmodified SDK, with each of its transports, against the
// server of a Centrifugo configuration. test_site_js.py runs it with the port of one;
// it prints the name of each scenario that went well.
import assert from "node:assert/strict"
import { Centrifuge, UnauthorizedError } from "centrifuge"
import { EventSource } from "eventsource"
import { createHmac } from "node:crypto"
import WebSocket from "ws"

const host = `127.0.0.1:${process.argv[2]}`
const TRANSPORTS = {
  websocket: `ws://${host}/connection/websocket`,
  http_stream: `http://${host}/connection/http_stream`,
  sse: `http://${host}/connection/sse`,
}
const clients = []

function client(transport, options = {}) {
  const made = new Centrifuge([{ transport, endpoint: TRANSPORTS[transport] }], {
    websocket: WebSocket, eventsource: EventSource,
    emulationEndpoint: `http://${host}/emulation`,
    minReconnectDelay: 10, maxReconnectDelay: 50, ...options,
  })
  clients.push(made)
  return made
}

const base64 = (value) => Buffer.from(JSON.stringify(value)).toString("base64url")

function token(claims) {
  const text = `${base64({ alg: "HS256", typ: "JWT" })}.${base64(claims)}`
  return `${text}.${createHmac("sha256", "secret").update(text).digest("base64url")}`
}

const now = () => Math.floor(Date.now() / 1000)
const event = (emitter, name) => new Promise((resolve) => emitter.once(name, resolve))

// Collects what an event brings; `until` waits for so many.
function log(emitter, name) {
  const seen = []
  let changed = () => {}
  emitter.on(name, (context) => { seen.push(context); changed() })
  seen.until = async (count) => {
    while (seen.length < count) await new Promise((resolve) => { changed = resolve })
    return seen
  }
  return seen
}

const fails = (promise, code) => assert.rejects(promise, { code })

const scenarios = {
  async "states"(transport) {
    const one = client(transport)
    const seen = []
    for (const name of ["connecting", "connected", "disconnected"])
      one.on(name, (context) => seen.push([name, context.code, context.transport]))
    one.connect()
    await one.ready(9000)
    one.disconnect()
    assert.equal(one.state, "disconnected")
    await fails(one.ready(10), 3)
    assert.deepEqual(seen, [
      ["connecting", 0, undefined], ["connected", undefined, transport],
      ["disconnected", 0, undefined],
    ])
  },

  async "publications, presence, and what there is not"(transport) {
    const one = client(transport)
    const sub = one.newSubscription(`x-${transport}`)
    assert.throws(() => one.newSubscription(`x-${transport}`))
    const seen = log(sub, "publication")
    one.connect()
    sub.subscribe()
    sub.subscribe()
    await sub.ready(9000)
    for (const data of [{ a: 1 }, "text", 5, null, [true]]) await sub.publish(data)
    await seen.until(5)
    assert.deepEqual(seen.map((each) => each.data), [{ a: 1 }, "text", 5, null, [true]])
    const { clients: here } = await sub.presence()
    assert.equal(Object.keys(here).length, 1)
    assert.deepEqual(await sub.presenceStats(), { numClients: 1, numUsers: 1 })
    assert.deepEqual(await one.presenceStats("empty"), { numClients: 0, numUsers: 0 })
    await fails(sub.history({ limit: 1 }), 108)
    await fails(one.rpc("method", {}), 108)
    await fails(one.publish("nothing:x", 1), 102)
    await fails(one.publish("x".repeat(300), 1), 107)
    await one.send({ to: "nobody" })
    sub.unsubscribe()
    await fails(sub.publish(1), 7)
    one.removeSubscription(sub)
    assert.equal(one.getSubscription(`x-${transport}`), null)
    // Requests that are under way at once may overtake each other.
    while ((await one.presenceStats(`x-${transport}`)).numClients);
  },

  async "channels that it may not have"(transport) {
    const one = client(transport)
    one.connect()
    for (const [channel, code] of [["nothing:x", 102], ["$private", 103]]) {
      const sub = one.newSubscription(channel)
      const gone = event(sub, "unsubscribed")
      sub.subscribe()
      assert.equal((await gone).code, code)
    }
    const subs = Array.from({ length: 128 }, (_, n) => one.newSubscription(`many-${n}`))
    subs.forEach((each) => each.subscribe())
    await Promise.all(subs.map((each) => each.ready(9000)))
    const more = one.newSubscription("one-more")
    const gone = event(more, "unsubscribed")
    more.subscribe()
    assert.equal((await gone).code, 106)
  },

  async "loops without waiting"(transport) {
    const one = client(transport)
    const sub = one.newSubscription(`loop-${transport}`)
    one.connect()
    for (let n = 0; n < 50; n++) { sub.subscribe(); sub.unsubscribe() }
    sub.subscribe()
    await sub.ready(9000)
    for (let n = 0; n < 20; n++) { sub.unsubscribe(); sub.subscribe() }
    await sub.ready(9000)
    for (let n = 0; n < 20; n++) { one.disconnect(); one.connect() }
    await sub.ready(9000)
    // Disconnected, and unsubscribed, in the middle of it.
    for (let n = 0; n < 5; n++) {
      one.disconnect()
      const connecting = event(one, "connecting")
      one.connect()
      await connecting
      await new Promise(setImmediate)
      sub.unsubscribe()
      one.disconnect()
      one.connect()
      sub.subscribe()
      await sub.ready(9000)
    }
    const seen = log(sub, "publication")
    await sub.publish("still there")
    await seen.until(1)
    assert.equal(seen.length, 1)
  },

  async "offline and online while it connects"(transport) {
    const network = new EventTarget()
    const one = client(transport, { networkEventTarget: network })
    const sub = one.newSubscription(`network-${transport}`)
    const connected = log(one, "connected")
    sub.subscribe()
    for (let n = 0; n < 10; n++) {
      one.connect()
      for (let turns = 0; turns < n; turns++) await new Promise(setImmediate)
      network.dispatchEvent(new Event("offline"))
      assert.equal(one.state, "connecting")
      network.dispatchEvent(new Event("online"))
      if (n % 3 === 0) one.disconnect()
    }
    one.connect()
    await sub.ready(9000)
    const before = connected.length
    network.dispatchEvent(new Event("offline"))
    assert.deepEqual([one.state, sub.state], ["connecting", "subscribing"])
    network.dispatchEvent(new Event("online"))
    await sub.ready(9000)
    assert.ok(connected.length > before)
    assert.equal((await sub.presenceStats()).numClients, 1)
  },

  async "many in one batch"(transport) {
    const one = client(transport)
    const sub = one.newSubscription(`batch-${transport}`)
    const seen = log(sub, "publication")
    one.startBatching()
    one.connect()
    sub.subscribe()
    const published = Array.from({ length: 100 }, (_, n) => sub.publish(n))
    one.stopBatching()
    await Promise.all(published)
    await seen.until(100)
    const came = seen.map((each) => each.data)
    // Requests that are under way at once may overtake each other.
    if (transport !== "websocket") came.sort((a, b) => a - b)
    assert.deepEqual(came, [...published.keys()])
  },

  async "tokens and data that fail at first"(transport) {
    let tries = 0
    const twice = (value) => async () => {
      if (++tries % 3) throw new Error("not now")
      return value()
    }
    const claims = () => token({ sub: "ann", info: { name: "Ann" }, channels: ["own"] })
    const one = client(transport, { getToken: twice(claims), getData: async () => 1 })
    const errors = log(one, "error")
    const subscribed = log(one, "subscribed")
    const publications = log(one, "publication")
    one.connect()
    await one.ready(9000)
    assert.deepEqual(errors.map((each) => each.type), ["connectToken", "connectToken"])
    assert.equal(subscribed[0].channel, "own")
    await one.publish("own", 7)
    await publications.until(1)
    assert.deepEqual([publications[0].channel, publications[0].data], ["own", 7])

    const delay = { minResubscribeDelay: 10, maxResubscribeDelay: 20 }
    const channel = `$private-${transport}`
    const sub = one.newSubscription(channel, {
      getToken: twice(() => token({ sub: "ann", channel })), getData: async () => 2,
      ...delay,
    })
    const failed = log(sub, "error")
    sub.subscribe()
    await sub.ready(9000)
    assert.deepEqual(failed.map((each) => each.type), ["subscribeToken", "subscribeToken"])
    const [member] = Object.values((await sub.presence()).clients)
    assert.deepEqual([member.user, member.connInfo], ["ann", { name: "Ann" }])

    const refused = one.newSubscription("$other", {
      getToken: async () => { throw new UnauthorizedError("no") },
    })
    const gone = event(refused, "unsubscribed")
    refused.subscribe()
    assert.equal((await gone).code, 1)
  },

  async "tokens that are refused"(transport) {
    const cases = [
      [{ token: "no token" }, 3500],
      [{ token: token({ sub: "ann" }).slice(0, -2) }, 3500],
      [{ getToken: async () => { throw new UnauthorizedError("no") } }, 1],
    ]
    for (const [options, code] of cases) {
      const one = client(transport, options)
      const gone = event(one, "disconnected")
      one.connect()
      assert.equal((await gone).code, code)
    }
    const one = client(transport, { token: token({ sub: "ann" }) })
    const sub = one.newSubscription("$private", {
      token: token({ sub: "eve", channel: "$private" }),
    })
    const gone = event(one, "disconnected")
    sub.subscribe()
    one.connect()
    assert.equal((await gone).code, 3500)
  },

  async "tokens that expire"(transport) {
    if (transport !== "websocket") return  // it is the same, and takes its time
    let given = 0
    const getToken = async () => {
      given += 1
      return token({ sub: "ann", exp: now() + 2 })
    }
    const one = client(transport, { token: token({ sub: "ann", exp: now() - 9 }), getToken })
    const connected = log(one, "connected")
    one.connect()
    await one.ready(9000)
    const channel = "$expiring"
    let refreshed = () => {}
    let tokens = 0
    const again = new Promise((resolve) => { refreshed = resolve })
    const sub = one.newSubscription(channel, {
      getToken: async () => {
        if (++tokens === 3) refreshed()
        return token({ sub: "ann", channel, exp: now() + 2 })
      },
    })
    const unsubscribed = log(sub, "unsubscribed")
    sub.subscribe()
    await sub.ready(9000)
    await again
    assert.deepEqual([connected.length, unsubscribed.length], [1, 0])
    assert.ok(given > 1)
  },

  async "what was missed"(transport) {
    const one = client(transport)
    const other = client("websocket")
    other.connect()
    const channel = `kept:${transport}-${process.pid}`
    const sub = one.newSubscription(channel)
    const seen = log(sub, "publication")
    const subscribed = log(sub, "subscribed")
    one.connect()
    sub.subscribe()
    await sub.ready(9000)
    assert.ok(subscribed[0].recoverable && subscribed[0].positioned)
    await other.publish(channel, 0)
    await seen.until(1)
    one.disconnect()
    for (let n = 1; n < 6; n++) await other.publish(channel, n)
    one.connect()
    await seen.until(6)
    sub.unsubscribe()
    for (let n = 6; n < 9; n++) await other.publish(channel, n)
    sub.subscribe()
    await seen.until(9)
    assert.deepEqual(seen.map((each) => each.data), [...Array(9).keys()])
    assert.deepEqual(seen.map((each) => each.offset), [...Array(10).keys()].slice(1))
    assert.deepEqual(subscribed.map((each) => each.recovered), [false, true, true])
    one.disconnect()
    for (let n = 0; n < 30; n++) await other.publish(channel, "more than is kept")
    one.connect()
    await subscribed.until(4)
    const last = subscribed[3]
    assert.deepEqual([last.wasRecovering, last.recovered], [true, false])
    await other.publish(channel, "next")
    await seen.until(10)
    assert.equal(seen.at(-1).data, "next")
    const pages = await sub.history({ limit: 2, reverse: true })
    assert.deepEqual(pages.publications.map((each) => each.data), ["next",
      "more than is kept"])
    const { offset, epoch } = pages
    const since = { offset: offset - 1, epoch }
    const after = await sub.history({ limit: 5, since })
    assert.deepEqual(after.publications.map((each) => each.offset), [offset])
    assert.equal((await sub.history()).publications.length, 0)
    assert.equal((await sub.history({ limit: -1 })).publications.length, 10)
    await fails(sub.history({ limit: 5, since: { offset: 1, epoch: "other" } }), 112)
  },

  async "who comes and goes"(transport) {
    const one = client(transport, { token: token({ sub: "ann" }) })
    const two = client(transport, { token: token({ sub: "bob" }) })
    const channel = `kept:joins-${transport}`
    const sub = one.newSubscription(channel, { joinLeave: true })
    const joined = log(sub, "join")
    const left = log(sub, "leave")
    sub.subscribe()
    one.connect()
    await joined.until(1)
    const its = two.newSubscription(channel)
    its.subscribe()
    two.connect()
    await joined.until(2)
    its.unsubscribe()
    await left.until(1)
    its.subscribe()
    await joined.until(3)
    two.disconnect()
    await left.until(2)
    assert.deepEqual(joined.map((each) => each.info.user), ["ann", "bob", "bob"])
    assert.deepEqual(left.map((each) => each.info.user), ["bob", "bob"])
  },
}

const transports = process.argv.slice(3)
for (const transport of transports.length ? transports : Object.keys(TRANSPORTS)) {
  for (const [name, run] of Object.entries(scenarios)) {
    const late = setTimeout(() => {
      console.error(`${transport}: ${name}: it takes too long`)
      process.exit(1)
    }, 20000)
    try {
      await run(transport)
    } catch (error) {
      console.error(`${transport}: ${name}:`, error)
      process.exit(1)
    }
    clearTimeout(late)
    console.log(`${transport}: ${name}`)
    clients.splice(0).forEach((each) => each.disconnect())
  }
}
process.exit(0)
