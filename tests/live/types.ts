// What TypeScript must accept of client.d.ts; what it must refuse is marked.
import { Centrifuge, UnauthorizedError, type Failure, type Publication, type Subscription } from "./client.js"

const live = new Centrifuge("/live/websocket", {
  getToken: async ({}) => {
    const response = await fetch("/token")
    if (response.status === 403) throw new UnauthorizedError()
    return response.text()
  },
  getData: () => ({ user: "ann" }),
  minReconnectDelay: 100, maxReconnectDelay: 1000, timeout: 1000, maxServerPingDelay: 0,
})
live.on("connected", ({ client, data }) => console.log(client.length, data))
  .on("disconnected", ({ code, reason }) => console.log(code.toFixed(), reason.length))
  .on("error", ({ type, error }) => console.log(type === "transport", error.message))
  .once("publication", ({ channel, offset = 0 }) => console.log(channel.length, offset + 1))

const room: Subscription = live.newSubscription("room:7", {
  recoverable: true, joinLeave: true, since: { offset: 1, epoch: "" }, getToken: ({ channel }) => channel,
})
const show = ({ data, info }: Publication) => console.log(data, info?.user.length)
room.on("publication", show).off("publication", show)
room.on("subscribed", ({ recovered, streamPosition }) => console.log(recovered, streamPosition?.offset))
room.subscribe()
live.connect()

async function calls(): Promise<number> {
  await room.ready(1000)
  await live.publish("room:7", 1, { key: "x" })
  await room.publish({ text: "hello" }, {}).catch((error: Failure) => console.log(error.code, error.temporary))
  const { publications, epoch, offset } = await room.history({ limit: 10 })
  const { clients } = await live.presence("room:7")
  const { data } = await live.rpc("add", [1, 2])
  const { numClients, numUsers } = await room.presenceStats()
  const state: "subscribed" | "subscribing" | "unsubscribed" = room.state
  console.log(epoch.length, clients["x"]?.user, data, state, Object.keys(live.subscriptions()))
  live.removeSubscription(live.getSubscription("room:7"))
  return publications.length + offset + numClients + numUsers
}
void calls()

// @ts-expect-error: no such event
live.on("conected", () => {})
// @ts-expect-error: no such field
room.on("publication", ({ date }) => date)
// @ts-expect-error: it cannot be set
live.state = "connected"
// @ts-expect-error: an option of neither
live.newSubscription("x", { recover: true })
