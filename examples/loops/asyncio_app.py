"""Inside asyncio: callbacks that await, and tasks that write at any time.

    python examples/loops/asyncio_app.py [port]

Each message is answered after the number of seconds it contains, without delaying other
clients. A task of the program sends the time to all clients. In a browser (F12):

    ws = new WebSocket("ws://127.0.0.1:8080/");
    ws.onmessage = (event) => console.log(event.data);
    ws.onopen = () => ws.send("2");
"""

import argparse
import asyncio
import signal
import time

from simple_ws import Client, Server, WebSocket

parser = argparse.ArgumentParser(description="A server inside asyncio.")
parser.add_argument("port", nargs="?", type=int, default=8080)
parser.add_argument("--seconds", type=float, default=5, help="between two times")
args = parser.parse_args()


class Sleeper(WebSocket):
    async def on_message(self, msg: str, client: Client) -> str:
        await asyncio.sleep(min(float(msg), 10))
        return f"slept {msg} s"

    def on_error(self, error: Exception, client: Client) -> None:
        client.close(1007, "say how many seconds")


async def tell_time(server: Server) -> None:
    while True:
        await asyncio.sleep(args.seconds)
        server.broadcast(time.strftime("it is %X"))


async def main() -> None:
    server = Server("127.0.0.1", args.port)
    server.mount("/", Sleeper())
    server.attach()
    print(f"Listening on ws://127.0.0.1:{server.port}/", flush=True)
    clock = asyncio.create_task(tell_time(server))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve_async()  # until stop(), or until Ctrl-C cancels it
    clock.cancel()


try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("Stopped")
