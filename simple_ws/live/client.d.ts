/** A client of the Centrifugo client protocol (version 2, JSON) over WebSocket, for
 * browsers and for Node. Its names are those of the SDK `centrifuge` for what both have.
 * All times are in milliseconds. */

/** Throw it in getToken or getData: the user may not connect, do not try again. */
export class UnauthorizedError extends Error {}

/** What promises are rejected with, and the error of most `error` events. */
export interface Failure extends Error {
  /** 1 timeout · 2 the connection failed · 3 disconnected · 7 unsubscribed · 11 the connection
   * ended before the reply · 12 too many calls wait; from 100 on what the server says. */
  code: number
  /** The same call may succeed later. */
  temporary: boolean
}

export type State = "disconnected" | "connecting" | "connected"
export type SubscriptionState = "unsubscribed" | "subscribing" | "subscribed"

/** A place in a channel with history. */
export interface StreamPosition {
  offset: number
  epoch: string
}

/** A connection that is in a channel. */
export interface ClientInfo {
  client: string
  /** "" or missing: it has no name. */
  user: string
  connInfo?: any
  chanInfo?: any
}

export interface Publication {
  channel: string
  data: any
  /** Its number in a channel with history. */
  offset?: number
  /** Of the client that published it, where the server tells. */
  info?: ClientInfo
  tags?: Record<string, string>
}

export interface Reason {
  /** Why: below 100 the client's own, 100 to 1999 an error of the server, 3000 to 4999 the
   * code with which the server closed the connection. */
  code: number
  reason: string
}

export interface ConnectedContext {
  /** The id of this connection. */
  client: string
  transport: "websocket"
  /** From `on_connect` of the server. */
  data?: any
}

export interface ErrorContext {
  type: "transport" | "connect" | "connectToken" | "connectData" | "refresh" | "refreshToken"
  error: Failure | Error
}

export interface SubscriptionErrorContext {
  channel: string
  type: "subscribe" | "subscribeToken" | "subscribeData" | "refresh" | "refreshToken"
  error: Failure | Error
}

export interface SubscribedContext {
  channel: string
  /** What is missed during a loss of the connection will be recovered. */
  recoverable: boolean
  /** The server notices when a message is missing. */
  positioned: boolean
  streamPosition: StreamPosition
  /** It was subscribed before, and asked for what it missed. */
  wasRecovering: boolean
  /** All that it missed follows, in order. False after `wasRecovering`: load the state anew. */
  recovered: boolean
  hasRecoveredPublications: boolean
  /** From `on_subscribe` of the server. */
  data?: any
}

export interface MemberContext {
  channel: string
  info: ClientInfo
}

export interface ClientEvents {
  state: { oldState: State; newState: State }
  connecting: Reason
  connected: ConnectedContext
  /** It does not come back by itself. */
  disconnected: Reason
  /** What the server wrote to this client. */
  message: { data: any }
  /** It is tried again. */
  error: ErrorContext
  // Of subscriptions by the server:
  subscribing: { channel: string }
  subscribed: SubscribedContext
  unsubscribed: { channel: string }
  publication: Publication
  join: MemberContext
  leave: MemberContext
}

export interface SubscriptionEvents {
  state: { channel: string; oldState: SubscriptionState; newState: SubscriptionState }
  subscribing: Reason & { channel: string }
  subscribed: SubscribedContext
  /** It does not come back by itself: it was refused, ended by the server, or by you. */
  unsubscribed: Reason & { channel: string }
  publication: Publication
  join: MemberContext
  leave: MemberContext
  /** It is tried again. */
  error: SubscriptionErrorContext
}

/** What a listener throws is reported as an uncaught error, and stops nothing. */
interface Emitter<Events, States> {
  readonly state: States
  /** Call a function at each event; the same function is added once. */
  on<E extends keyof Events>(event: E, listener: (context: Events[E]) => void): this
  /** Call it at the next event only. */
  once<E extends keyof Events>(event: E, listener: (context: Events[E]) => void): this
  off<E extends keyof Events>(event: E, listener: (context: Events[E]) => void): this
  removeListener<E extends keyof Events>(event: E, listener: (context: Events[E]) => void): this
  /** Resolves when connected or subscribed. Rejects after `timeout`, when the client is
   * disconnected, or the subscription unsubscribed. */
  ready(timeout?: number): Promise<void>
  /** Of the next attempt. */
  setToken(token: string): void
}

export interface Options {
  /** Of the user, as the server checks it. */
  token?: string
  /** Gives a token when there is none, when it has expired, and before it expires. What it
   * throws is tried again, except UnauthorizedError; null is the same as that. */
  getToken?: (context: {}) => Promise<string | null> | string | null
  /** For `on_connect` of the server. */
  data?: any
  /** Gives the data of each attempt. */
  getData?: (context: {}) => any
  /** Of this kind of client, for the server; "js". */
  name?: string
  /** Of the application, for the server. */
  version?: string
  /** For the server, in place of HTTP headers. */
  headers?: Record<string, string>
  /** Between two attempts; 500. Each time up to twice as much, at random. */
  minReconnectDelay?: number
  /** 20000. */
  maxReconnectDelay?: number
  /** Of an attempt, and of a reply; 5000. Calls wait as long for a connection. */
  timeout?: number
  /** The connection is lost when a ping of the server is late by more; 10000. 0: never. */
  maxServerPingDelay?: number
  /** A class WebSocket, for Node before version 22. */
  websocket?: any
}

export interface SubscriptionOptions {
  token?: string
  getToken?: (context: { channel: string }) => Promise<string | null> | string | null
  /** For `on_subscribe` of the server. */
  data?: any
  getData?: (context: { channel: string }) => any
  /** Recover what was missed during a loss of the connection. */
  recoverable?: boolean
  /** Notice when a message is missing. */
  positioned?: boolean
  /** Tell who comes and leaves. */
  joinLeave?: boolean
  /** Begin after this place, such as that of a page made by the server. */
  since?: StreamPosition
  /** 500. */
  minResubscribeDelay?: number
  /** 20000. */
  maxResubscribeDelay?: number
}

export interface PublishOptions {
  /** At most 128 characters, best at random: what is published again with the same key, since
   * no reply came, is once in a channel with history. The SDK and other servers have no keys. */
  key?: string
}

export interface HistoryOptions {
  /** Publications at most; 0, the default, gives the position alone, and -1 all. */
  limit?: number
  /** Those after this place; in reverse those before it. */
  since?: StreamPosition
  /** The newest first. */
  reverse?: boolean
}

export interface HistoryResult extends StreamPosition {
  publications: Publication[]
}

export interface PresenceResult {
  clients: Record<string, ClientInfo>
}

export interface PresenceStatsResult {
  numClients: number
  numUsers: number
}

/** A connection that comes back until it is disconnected.
 *
 * Calls made without a connection wait for it, for `timeout` at most, and are sent in order;
 * at most 10,000 wait. A call whose connection ends before the reply is rejected with code
 * 11: the server may have got it, or not. */
export class Centrifuge implements Emitter<ClientEvents, State> {
  /** `url` may be relative to the page, and begin with http or ws.
   * @throws TypeError or SyntaxError: it is no URL. */
  constructor(url: string, options?: Options)
  readonly state: State
  connect(): void
  disconnect(): void
  /** @throws Error: there is a subscription to this channel. */
  newSubscription(channel: string, options?: SubscriptionOptions): Subscription
  getSubscription(channel: string): Subscription | null
  /** Unsubscribe, and forget it. */
  removeSubscription(subscription: Subscription | null): void
  subscriptions(): Record<string, Subscription>
  /** Resolves when the server has stored or sent it. */
  publish(channel: string, data: any, options?: PublishOptions): Promise<{}>
  history(channel: string, options?: HistoryOptions): Promise<HistoryResult>
  presence(channel: string): Promise<PresenceResult>
  presenceStats(channel: string): Promise<PresenceStatsResult>
  /** Call a method of the server. */
  rpc(method: string, data?: any): Promise<{ data: any }>
  /** Send something that is not answered. */
  send(data: any): Promise<void>
  ready(timeout?: number): Promise<void>
  setToken(token: string): void
  on<E extends keyof ClientEvents>(event: E, listener: (context: ClientEvents[E]) => void): this
  once<E extends keyof ClientEvents>(event: E, listener: (context: ClientEvents[E]) => void): this
  off<E extends keyof ClientEvents>(event: E, listener: (context: ClientEvents[E]) => void): this
  removeListener<E extends keyof ClientEvents>(event: E, listener: (context: ClientEvents[E]) => void): this
}

/** A channel; made by `newSubscription`. It is subscribed again after each loss of the
 * connection, until it is unsubscribed; its place in the history is kept. */
export interface Subscription extends Emitter<SubscriptionEvents, SubscriptionState> {
  readonly channel: string
  /** @throws Failure: it was removed. */
  subscribe(): void
  unsubscribe(): void
  // These wait until it is subscribed.
  publish(data: any, options?: PublishOptions): Promise<{}>
  history(options?: HistoryOptions): Promise<HistoryResult>
  presence(): Promise<PresenceResult>
  presenceStats(): Promise<PresenceStatsResult>
}
