// Carries out what a test says with a module that has the names of the SDK `centrifuge`:
// the SDK itself, or our client.js. It runs in Node (node_driver.mjs) and in a page.

const PLAIN = new Set(Object.getOwnPropertyNames(Object.prototype))

/** Clients by name, and what they have seen: a list of contexts for each event. */
export class Driver {
  constructor(module, defaults = {}) {
    this.module = module
    this.defaults = defaults
    this.clients = new Map()
    this.seen = new Map()
    this.waiting = new Set()
    this.calls = new Map()
  }

  /** Forget all clients; the next ones connect to `url`. */
  do_reset({ url }) {
    for (const client of this.clients.values()) client.disconnect()
    for (const part of [this.clients, this.seen, this.waiting, this.calls]) part.clear()
    this.url = url
  }

  /** Carry out a command; resolves with the result that the test gets. */
  async do({ do: name, ...args }) {
    return this[`do_${name}`](args)
  }

  /** Begin all commands, without waiting in between. */
  async do_all({ commands }) { await Promise.all(commands.map((each) => this.do(each))) }

  /** A client: `tokens` are what getToken gives, one after the other. */
  do_client({ name, url, options = {}, tokens, data, throws }) {
    const made = new this.module.Centrifuge(url ?? this.url, {
      minReconnectDelay: 10, maxReconnectDelay: 100, ...this.defaults, ...options,
      ...this.functions(name, undefined, tokens, data),
    })
    this.clients.set(name, made)
    const events = ["connecting", "connected", "disconnected", "message", "error", "subscribing",
      "subscribed", "unsubscribed", "publication", "join", "leave"]
    if (throws) this.throwing(made, events)
    this.listen(made, events, name)
  }

  do_connect({ name }) { this.clients.get(name).connect() }
  do_disconnect({ name }) { this.clients.get(name).disconnect() }
  do_ready({ name, channel, timeout = 15000 }) { return this.of(name, channel).ready(timeout) }
  do_state({ name, channel }) { return this.of(name, channel).state }

  /** A subscription, at once. */
  do_subscribe({ name, channel, options = {}, tokens, data, throws }) {
    const client = this.clients.get(name)
    let made = client.getSubscription(channel)
    if (!made) {
      made = client.newSubscription(channel, { ...options, ...this.functions(name, channel, tokens, data) })
      const events = ["subscribing", "subscribed", "unsubscribed", "publication", "join", "leave", "error"]
      if (throws) this.throwing(made, events)
      this.listen(made, events, name, channel)
    }
    made.subscribe()
  }

  do_unsubscribe({ name, channel }) { this.of(name, channel).unsubscribe() }
  do_remove({ name, channel }) {
    const client = this.clients.get(name)
    client.removeSubscription(client.getSubscription(channel))
  }

  /** A call that returns a promise, such as publish; waits for it, unless `later` names it. */
  do_call({ name, channel, method, args = [], later }) {
    const result = this.of(name, channel)[method](...args).then(
      (value) => ({ value: value ?? null }),
      (error) => ({ error: { code: error.code ?? 0, message: error.message } }),
    )
    if (!later) return result
    this.calls.set(later, result)
  }

  /** The result of a call that was made before. */
  do_result({ later }) { return this.calls.get(later) }

  /** Publish `count` numbers from `first` on; resolves when all are acknowledged. */
  async do_publish_numbers({ name, channel, first, count }) {
    const client = this.clients.get(name)
    const numbers = Array.from({ length: count }, (_, n) => first + n)
    await Promise.all(numbers.map((n) => client.publish(channel, n)))
  }

  /** Publish numbers, one after the other, until `do_stop`. */
  do_publish_steadily({ name, channel }) {
    const client = this.clients.get(name)
    this.acknowledged = []
    this.going = true
    this.ended = (async () => {
      for (let n = 0; this.going; n++) {
        const text = `${name} ${n}`
        // One that is not acknowledged may have come, or not.
        const done = await client.publish(channel, text).catch(() => null)
        if (done) this.acknowledged.push(text)
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
    })()
  }

  /** Resolves with what was acknowledged. */
  async do_stop() {
    this.going = false
    await this.ended
    return this.acknowledged
  }

  /** Wait until an event was seen `count` times; returns the contexts from `since` on. */
  do_wait({ name, channel, event, count = 1, since = 0, timeout = 15000 }) {
    const seen = this.list(name, channel, event)
    const result = () => seen.slice(since)
    if (seen.length >= count) return result()
    return new Promise((resolve, reject) => {
      const entry = { seen, count, done: () => { clearTimeout(timer); resolve(result()) } }
      const timer = setTimeout(() => {
        this.waiting.delete(entry)
        const place = [name, channel, event].filter(Boolean).join(" ")
        reject(new Error(`${place}: ${seen.length} of ${count} came, ${JSON.stringify(seen.slice(-3))}`))
      }, timeout)
      this.waiting.add(entry)
    })
  }

  /** What objects have that have nothing. */
  do_pollution() { return Object.getOwnPropertyNames(Object.prototype).filter((name) => !PLAIN.has(name)) }

  /** The channels of all subscriptions. */
  do_channels({ name }) { return Object.keys(this.clients.get(name).subscriptions()) }

  do_new_subscription({ name, channel }) { this.clients.get(name).newSubscription(channel) }

  /** Make calls that wait; resolves with the codes of those that are rejected at once. */
  async do_calls({ name, count }) {
    const codes = []
    for (let n = 0; n < count; n++) {
      this.clients.get(name).publish("room", n).catch(({ code }) => codes.push(code))
    }
    await new Promise((resolve) => setTimeout(resolve))
    return codes
  }

  do_events({ name, channel, event }) { return this.list(name, channel, event) }

  of(name, channel) {
    const client = this.clients.get(name)
    return channel === undefined ? client : client.getSubscription(channel)
  }

  list(name, channel, event) {
    const key = JSON.stringify([name, channel, event])
    if (!this.seen.has(key)) this.seen.set(key, [])
    return this.seen.get(key)
  }

  throwing(emitter, events) {
    for (const event of events) emitter.on(event, () => { throw new Error("of a listener") })
  }

  listen(emitter, events, name, channel) {
    for (const event of events) {
      emitter.on(event, (context) => this.note(name, channel, event, context))
    }
  }

  functions(name, channel, tokens, data) {
    const options = {}
    if (tokens) options.getToken = this.oneByOne(tokens, (context) => this.note(name, channel, "getToken", context))
    if (data) options.getData = this.oneByOne(data, () => {})
    return options
  }

  /** An event was seen. */
  note(name, channel, event, context) {
    const seen = this.list(name, channel, event), { error } = context
    // The message of an Error would be lost on its way to the test.
    seen.push(error ? { ...context, error: { code: error.code, message: error.message } } : context)
    for (const entry of this.waiting) {
      if (entry.seen === seen && seen.length >= entry.count) {
        this.waiting.delete(entry)
        entry.done()
      }
    }
  }

  /** A function that gives one value after the other, the last for ever. An object with
   * `fails` is thrown; with `unauthorized` it is an UnauthorizedError. */
  oneByOne(values, told) {
    let next = 0
    return async (context) => {
      told(context)
      const value = values[Math.min(next++, values.length - 1)]
      if (value?.unauthorized) throw new this.module.UnauthorizedError("unauthorized")
      if (value?.fails) throw new Error(value.fails)
      return value
    }
  }
}
