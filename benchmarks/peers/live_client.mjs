// Receives publications with a module that has the names of the SDK, and says what that
// took; for live_js.py, which publishes.
//
// usage: node live_client.mjs MODULE WS URL COUNT, WS: the module `ws`
const [module, ws, url, wanted] = process.argv.slice(2)
const { Centrifuge } = await import(module)
const { WebSocket } = await import(ws)

// Compression would be most of what is measured.
class Plain extends WebSocket {
  constructor(address) { super(address, { perMessageDeflate: false }) }
}

const live = new Centrifuge(url, { websocket: Plain })
const topic = live.newSubscription("flood")
const count = Number(wanted)
let next = 0, begun, cpu

topic.on("publication", ({ data }) => {
  if (data.n !== next++) throw new Error(`${data.n} came in place of ${next - 1}`)
  if (next === 1) {
    begun = performance.now()
    cpu = process.cpuUsage()
  } else if (next === count) {
    const seconds = (performance.now() - begun) / 1e3
    const { user, system } = process.cpuUsage(cpu)
    console.log(JSON.stringify({ seconds, cpu: (user + system) / 1e6 }))
    live.disconnect()
  }
})
topic.subscribe()
live.connect()
