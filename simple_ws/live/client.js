// A client of the Centrifugo client protocol, with names of the SDK: see client.d.ts.

// MAX calls wait for a connection, and so many subscriptions are by the server; characters
// of a FRAME that is sent, and of one that is received.
const MAX = 10000, FRAME = 2 ** 14, MAX_FRAME = 2 ** 25

/** Thrown by getToken or getData: do not try again. */
export class UnauthorizedError extends Error {}

/** Codes from 100 on are the server's. */
class Failure extends Error {
  constructor(code, message, temporary = false) {
    super(message)
    Object.assign(this, { code, temporary })
  }
}

// The server may say anything.
const count = (value) => Number.isSafeInteger(value) && value > 0 ? value : 0
const comesBack = (code) => code < 3500 || code >= 4000 && code < 4500

const member = ({ client, user, conn_info, chan_info }) =>
  ({ client, user, connInfo: conn_info, chanInfo: chan_info })

function publication(channel, { data, offset, info, tags }) {
  const context = { channel, data }
  if (offset) context.offset = offset
  if (info) context.info = member(info)
  if (tags) context.tags = tags
  return context
}

/** What a result is for the caller. */
const READERS = {
  rpc: ({ data }) => ({ data }),
  history: ({ publications = [], epoch, offset }, channel) =>
    ({ publications: publications.map((each) => publication(channel, each)), epoch, offset: count(offset) }),
  presence: ({ presence }) =>
    ({ clients: Object.fromEntries(Object.entries(presence).map(([id, each]) => [id, member(each)])) }),
  presence_stats: ({ num_clients, num_users }) => ({ numClients: num_clients, numUsers: num_users }),
}

/** What a client and a subscription share: listeners, states, attempts and tokens.
 * Each step is a new `_turn`, and makes void what was begun in an earlier one. */
class Party {
  _listeners = Object.create(null)
  _waiting = new Set()
  _timers = {}
  _turn = 0
  removeListener = this.off

  constructor(states, context, options) {
    this._states = states
    this._context = context
    this._options = options
    this._data = options.data
    this.setToken(options.token)
    this.state = states[0]
  }

  setToken(token) {
    this._token = token
    this._expired = false
  }

  on(event, listener, call = listener) {
    (this._listeners[event] ??= new Map()).set(listener, call)
    return this
  }

  once(event, listener) {
    return this.on(event, listener, (context) => {
      this.off(event, listener)
      listener(context)
    })
  }

  off(event, listener) {
    this._listeners[event]?.delete(listener)
    return this
  }

  _emit(event, context) {
    for (const call of [...this._listeners[event]?.values() ?? []]) {
      try { call(context) } catch (error) { (globalThis.reportError ?? console.error)(error) }
    }
  }

  ready(timeout) {
    return this.state === this._states[0] ? Promise.reject(this._gone()) : this._wait(timeout)
  }

  _wait(timeout) {
    if (this.state === this._states[2]) return Promise.resolve()
    return new Promise((resolve, reject) => {
      if (this._waiting.size >= MAX) throw new Failure(12, "too many calls wait")
      const waiter = { resolve, reject }
      this._waiting.add(waiter)
      if (timeout) waiter.timer = setTimeout(() => {
        this._waiting.delete(waiter)
        reject(new Failure(1, "timeout"))
      }, timeout)
    })
  }

  _settle(how, error) {
    for (const waiter of this._waiting) {
      clearTimeout(waiter.timer)
      waiter[how](error)
    }
    this._waiting.clear()
  }

  _later(name, delay, action) {
    clearTimeout(this._timers[name])
    this._timers[name] = setTimeout(action, Math.min(delay, 2 ** 31 - 1))
  }

  _cancel() {
    for (const name in this._timers) clearTimeout(this._timers[name])
    return ++this._turn
  }

  /** Go to a state; false when a listener has gone on to another. */
  _move(to, context) {
    const turn = this._cancel(), oldState = this.state, newState = this._states[to]
    this.state = newState
    if (to === 0) this._settle("reject", this._gone())
    if (to === 2) this._settle("resolve")
    if (oldState !== newState) {
      this._moved(oldState)
      if (turn === this._turn) this._emit("state", { ...this._context, newState, oldState })
      if (turn === this._turn) this._emit(newState, { ...this._context, ...context })
    }
    return turn === this._turn
  }

  /** Ask a function of the application; if the answer comes too late, this never ends. */
  async _ask(name) {
    const turn = this._turn
    try {
      return await this._options[name]?.({ ...this._context })
    } finally {
      if (turn !== this._turn) await new Promise(() => {})
    }
  }

  async _newToken() {
    const token = await this._ask("getToken")
    if (token == null) throw new UnauthorizedError()
    this.setToken(token)
  }

  async _attempt() {
    this._trying = this._cancel()
    const { getToken, getData } = this._options
    let step = "Token"
    try {
      if (this._expired || getToken && !this._token) await this._newToken()
      step = "Data"
      if (getData) this._data = await this._ask("getData")
    } catch (error) {
      return this._failed(this._verb + step, error, () => this._retry())
    }
    this._open()
  }

  /** Give up if the server, or the application, says so; else do it `again`. */
  _failed(type, error, again) {
    const { code, message, temporary } = error instanceof Failure ? error : {}, turn = this._turn
    if (error instanceof UnauthorizedError) return this._end(1, "unauthorized")
    if (code === 109 && this._options.getToken) this._expired = true
    else if (code >= 100 && !temporary) return this._end(code, message)
    this._emit("error", { ...this._context, type, error })
    if (turn === this._turn) again(error)
  }

  /** Full jitter. */
  _retry() {
    const { [`minRe${this._verb}Delay`]: least = 500, [`maxRe${this._verb}Delay`]: most = 20000 } = this._options
    const delay = least + Math.random() * Math.min(most, least * 2 ** this._attempts++)
    this._later("retry", Math.min(most, delay), () => this._attempt())
  }

  /** Send a command; its reply is lost if it comes too late. */
  _command(type, params, accept, again) {
    const turn = this._turn
    this._client._call(type, JSON.stringify(params), (error, result) => {
      if (turn !== this._turn) return
      if (error) this._failed(type.replace("sub_", ""), error, again)
      else accept(result)
    })
  }

  /** Get a new token before this one expires. */
  _keepFresh({ expires, ttl }) {
    if (expires && this._options.getToken) this._later("refresh", Math.max(1000, count(ttl) * 900), () => this._refresh())
  }

  async _refresh() {
    const again = () => this._later("refresh", 5000 + Math.random() * 5000, () => this._refresh())
    try { await this._newToken() } catch (error) { return this._failed("refreshToken", error, again) }
    this._command(this._refreshing, { ...this._context, token: this._token }, (result) => this._keepFresh(result), again)
  }
}

/** A channel, and how much of it was seen; its `emitter` is told of it while it is `live`. */
class Stream {
  constructor(channel, emitter) {
    this.channel = channel
    this.emitter = emitter
  }

  claim() {
    return this.recover ? { recover: true, epoch: this.epoch, offset: this.offset } : {}
  }

  begin({ publications = [], recoverable = false, positioned = false, epoch, offset, recovered = false, was_recovering: wasRecovering = false, data }, tell) {
    const live = this.live = {}, { channel } = this, streamPosition = { epoch, offset: count(offset) }
    const hasRecoveredPublications = publications.length > 0
    Object.assign(this, streamPosition, { recover: recoverable })
    // It may be left in the middle of what was missed.
    if (hasRecoveredPublications) this.offset = publications[0].offset - 1
    tell({ channel, recoverable, positioned, streamPosition, wasRecovering, recovered, hasRecoveredPublications, data })
    for (const each of publications) this.live === live && this.take(each)
  }

  take(pub) {
    if (pub.offset) this.offset = count(pub.offset)
    this.emitter._emit("publication", publication(this.channel, pub))
  }
}

class Subscription extends Party {
  _verb = "subscribe"
  _refreshing = "sub_refresh"

  constructor(client, channel, options = {}) {
    super(["unsubscribed", "subscribing", "subscribed"], { channel }, options)
    this._client = client
    this._stream = new Stream(channel, this)
    if (options.since) Object.assign(this._stream, { recover: true }, options.since)
    this.channel = channel
  }

  subscribe() {
    if (this.state !== "unsubscribed") return
    if (this._client.getSubscription(this.channel) !== this) throw this._gone()
    this._attempts = 0
    if (this._move(1, { code: 0, reason: "subscribe called" })) this._begin()
  }

  unsubscribe() { this._end(0, "unsubscribe called") }

  publish(data, options) { return this._client.publish(this.channel, data, options, this) }
  history(options) { return this._client.history(this.channel, options, this) }
  presence() { return this._client.presence(this.channel, this) }
  presenceStats() { return this._client.presenceStats(this.channel, this) }

  _gone() { return new Failure(7, "unsubscribed") }

  _begin() {
    const idle = this.state === "subscribing" && this._trying !== this._turn
    if (idle && this._client.state === "connected") this._attempt()
  }

  _open() {
    const { _context, _token: token, _data: data } = this
    const { positioned, recoverable, joinLeave: join_leave } = this._options
    this._asked = true
    this._command("subscribe", { ..._context, token, data, positioned, recoverable, join_leave, ...this._stream.claim() },
      (result) => this._stream.begin(result, (context) => {
        this._attempts = 0
        if (this._move(2, context)) this._keepFresh(result)
      }),
      (error) => error.code === 1 ? this._client._end(3, "subscribe timeout", true) : this._retry())
  }

  _end(code, reason) {
    if (this.state === "unsubscribed") return
    if (this._asked) this._client._call("unsubscribe", JSON.stringify(this._context), (error) => {
      if (error && error.code !== 11) this._client._end(4, "unsubscribe error", true)
    })
    this._lost(code, reason, 0)
  }

  /** The server does not have it any more. */
  _lost(code, reason, to = 1) {
    this._asked = false
    if (this.state === "subscribed" || !to) this._move(to, { code, reason })
    else this._cancel()
    this._begin()
  }

  _moved() {
    if (this.state !== "subscribed") this._stream.live = null
  }
}

export class Centrifuge extends Party {
  _verb = "connect"
  _refreshing = "refresh"
  _client = this
  _subs = new Map()
  _served = new Map()
  _calls = new Map()
  _id = 0
  _out = ""

  constructor(url, options) {
    super(["disconnected", "connecting", "connected"], {}, { timeout: 5000, maxServerPingDelay: 10000, name: "js", ...options })
    this._url = new URL(url, globalThis.location?.href).href.replace(/^http/, "ws")
  }

  connect() {
    if (this.state !== "disconnected") return
    this._attempts = 0
    this._page = new AbortController()
    for (const type of ["online", "offline", "pageshow", "pagehide", "visibilitychange"]) {
      globalThis.addEventListener?.(type, (event) => this._onPage(event), this._page)
    }
    if (this._move(1, { code: 0, reason: "connect called" })) this._attempt()
  }

  disconnect() { this._end(0, "disconnect called") }

  newSubscription(channel, options) {
    if (this._subs.has(channel)) throw new Error(`there is a subscription to ${channel}`)
    const made = new Subscription(this, channel, options)
    this._subs.set(channel, made)
    return made
  }

  getSubscription(channel) { return this._subs.get(channel) ?? null }
  subscriptions() { return Object.fromEntries(this._subs) }

  removeSubscription(sub) {
    if (!sub || this.getSubscription(sub.channel) !== sub) return
    this._subs.delete(sub.channel)
    sub.unsubscribe()
  }

  publish(channel, data, { key } = {}, sub) { return this._request("publish", { channel, data, key }, sub) }
  history(channel, options, sub) { return this._request("history", { channel, ...options }, sub) }
  presence(channel, sub) { return this._request("presence", { channel }, sub) }
  presenceStats(channel, sub) { return this._request("presence_stats", { channel }, sub) }
  rpc(method, data) { return this._request("rpc", { method, data }) }

  send(data) { return this._request("send", { data }) }

  /** Call when connected, or subscribed. What is sent is what `params` are now. */
  async _request(method, params, party = this) {
    const body = JSON.stringify(params)
    if (party.state === "unsubscribed") throw party._gone()
    do await party._wait(this._options.timeout)
    while (this.state !== "connected")
    if (method === "send") return this._write(`{"send":${body}}`)
    return new Promise((resolve, reject) => this._call(method, body, (error, result) =>
      error ? reject(error) : resolve(READERS[method]?.(result, params.channel) ?? {})))
  }

  _gone() { return new Failure(3, "client disconnected") }

  /** Send a command; `done` gets its error or its result, in order with all else that comes. */
  _call(method, body, done) {
    const id = ++this._id
    const timer = setTimeout(() => {
      this._calls.delete(id)
      done(new Failure(1, "timeout"))
    }, this._options.timeout)
    this._calls.set(id, { method, done, timer })
    this._write(`{"id":${id},"${method}":${body}}`)
  }

  /** What is written in one turn of the event loop goes out in few frames. */
  _write(line) {
    if (this._out.length + line.length > FRAME) this._flush()
    if (!this._out) queueMicrotask(() => this._flush())
    this._out += this._out ? "\n" + line : line
  }

  _flush() {
    if (this._out) this._socket?.send(this._out)
    this._out = ""
  }

  _open() {
    let socket
    const mine = (action) => (event) => this._socket === socket && action(event)
    try {
      this._socket = socket = new (this._options.websocket ?? WebSocket)(this._url)
    } catch (error) {
      return this._drop(error.message)
    }
    this._later("retry", this._options.timeout, () => this._drop("connect timeout"))
    socket.onopen = mine(() => this._connect())
    socket.onmessage = mine(({ data }) => this._receive(data))
    // `close` follows.
    socket.onerror = () => {}
    socket.onclose = mine(({ code, reason }) => {
      if (code === 1009) this._end(3, "message size limit")
      else if (code >= 3000) this._end(code, reason, comesBack(code))
      else this._drop("transport closed")
    })
  }

  _connect() {
    const { name, version, headers } = this._options
    const subs = { __proto__: null }
    for (const [channel, stream] of this._served) if (stream.recover) subs[channel] = stream.claim()
    clearTimeout(this._timers.retry)
    this._command("connect", { token: this._token, data: this._data, name, version, headers, subs },
      (result) => this._accept(result), (error) => this._end(error.code, error.message, true))
  }

  /** The connection has failed. */
  _drop(reason, code = 1) {
    this._failed("transport", new Failure(2, reason), () => this._end(code, reason, true))
  }

  _accept(result) {
    const { client, data, ping, pong, subs = {} } = result
    this._attempts = 0
    this._pong = pong
    if (!this._move(2, { client, transport: "websocket", data })) return
    const turn = this._turn, limit = this._options.maxServerPingDelay
    if (limit && count(ping)) this._watch(limit + ping * 1000)
    this._keepFresh(result)
    for (const sub of [...this._subs.values()]) sub._begin()
    for (const [channel] of this._served) if (!Object.hasOwn(subs, channel)) this._unserve(channel)
    for (const channel in subs) turn === this._turn && this._serve(channel, subs[channel])
  }

  _serve(channel, result) {
    if (this._served.size >= MAX) return
    const stream = this._served.get(channel) ?? new Stream(channel, this)
    this._served.set(channel, stream)
    stream.begin(result, (context) => this._emit("subscribed", context))
  }

  _unserve(channel) {
    if (this._served.delete(channel)) this._emit("unsubscribed", { channel })
  }

  /** The server must be heard once in so many milliseconds. */
  _watch(limit) {
    const left = this._heard + limit - performance.now()
    if (left > 0) this._later("watch", left + 1, () => this._watch(limit))
    else this._drop("no ping", 2)
  }

  _receive(frame) {
    const socket = this._socket
    this._heard = performance.now()
    try {
      if (frame.length > MAX_FRAME) throw frame
      for (const line of frame.split("\n")) {
        if (line && this._socket === socket) this._take(JSON.parse(line))
      }
    } catch {
      this._drop("bad frame")
    }
  }

  _take(reply) {
    const { id, error, push } = reply, call = this._calls.get(id)
    if (call) {
      if (error) call.done(new Failure(count(error.code) || 100, error.message, error.temporary))
      else call.done(null, reply[call.method] ?? {})
      clearTimeout(call.timer)
      this._calls.delete(id)
    } else if (push) {
      if (this.state === "connected") this._push(push)
    // One that does not read its pongs gets no more.
    } else if (!id && this._pong && this._socket.bufferedAmount < FRAME) this._write("{}")
  }

  _push({ channel, pub, join, leave, message, subscribe, unsubscribe, disconnect }) {
    const sub = this._subs.get(channel), stream = sub?._stream.live ? sub._stream : this._served.get(channel)
    const { code, reason } = unsubscribe ?? disconnect ?? {}
    if (pub) stream?.live && stream.take(pub)
    else if (join ?? leave) stream?.emitter._emit(join ? "join" : "leave", { channel, info: member((join ?? leave).info) })
    else if (message) this._emit("message", { data: message.data })
    else if (subscribe) this._serve(channel, subscribe)
    else if (disconnect) this._end(code, reason, comesBack(code))
    else if (unsubscribe) sub?._asked ? sub._lost(code, reason, code < 2500 ? 0 : 1) : this._unserve(channel)
  }

  /** The connection ends, and comes `back`, or not. */
  _end(code, reason, back = false) {
    if (this.state === "disconnected") return this._settle("reject", this._gone())
    const { _socket, _calls } = this
    this._cancel()
    this._socket = null
    this._out = ""
    this._calls = new Map()
    _socket?.close()
    const moved = this._move(back ? 1 : 0, { code, reason })
    for (const { done, timer } of _calls.values()) {
      clearTimeout(timer)
      done(new Failure(11, "connection closed"))
    }
    if (moved && back) this._retry()
  }

  _moved(oldState) {
    if (this.state === "disconnected") this._page.abort()
    if (oldState !== "connected") return
    for (const sub of [...this._subs.values()]) sub._lost(1, "transport closed")
    for (const [channel, stream] of this._served) {
      stream.live = null
      this._emit("subscribing", { channel })
    }
  }

  _onPage({ type, persisted = true }) {
    if (!persisted || type === "visibilitychange" && document.hidden) return
    if (type === "offline" || type === "pagehide") this._drop(type)
    // It may be dead without knowing.
    else if (this.state === "connected") this._call("ping", "{}", (error) => error?.code === 1 && this._drop("no ping", 2))
    else if (!this._socket) {
      this._attempts = 0
      this._attempt()
    }
  }
}
