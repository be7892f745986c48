// Runs a Driver in Node: a command on each line of the input, and a line with its number
// and result, or error, when it is done. A later command need not wait for an earlier.
//
// usage: node node_driver.mjs MODULE; MODULE is `centrifuge`, or the path of client.js
import { createInterface } from "node:readline"
import WebSocket from "ws"
import { Driver } from "./driver.mjs"

const driver = new Driver(await import(process.argv[2]), { websocket: WebSocket })
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n")

process.on("uncaughtException", (error) => say({ uncaught: String(error.stack) }))
process.on("unhandledRejection", (error) => say({ uncaught: String(error?.stack ?? error) }))
createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { id, ...command } = JSON.parse(line)
    driver.do(command).then(
      (result) => say({ id, result: result ?? null }),
      (error) => say({ id, error: String(error?.message ?? error) }),
    )
  })
  .on("close", () => process.exit(0))
