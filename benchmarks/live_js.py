"""How many publications a page can take: client.js and npm's `centrifuge`, in Node.

A server in this process publishes to one client in Node, without compression, as fast
as that reads. What counts is the CPU time of Node: a row of JSON for each has the
messages that one core takes in a second. Needs `make tests/live/node_modules/.stamp`.

usage: python benchmarks/live_js.py [MESSAGES]
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from simple_ws import Server  # noqa: E402
from simple_ws.live.script import client_js  # noqa: E402

PACKAGES = ROOT / "tests" / "live" / "node_modules"
WS = PACKAGES / "ws" / "wrapper.mjs"
CLIENT = Path(__file__).parent / "peers" / "live_client.mjs"
ROUNDS = 5
#: Published at once, when the client has not more bytes than that before it.
BATCH, BUFFERED = 500, 256 * 1024


def measure(module: Path, count: int) -> dict[str, float]:
    """Wall and CPU seconds of Node for so many messages."""
    server = Server("127.0.0.1", 0)
    live = server.live("/live", authorize=lambda client, action, topic: True)
    numbers = iter(range(count))

    def publish() -> None:
        if server.count("flood") and all(
            each.buffered_amount < BUFFERED for each in live.clients
        ):
            for number in itertools.islice(numbers, BATCH):
                server.publish("flood", {"n": number, "text": "x" * 100})

    server.every(0.001, publish)
    server.start()
    try:
        url = f"ws://127.0.0.1:{server.port}/live/websocket"
        done = subprocess.run(
            ["node", CLIENT, module, WS, url, str(count)],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    finally:
        server.stop(drain=0)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print a row for each."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "client.mjs"
        ours.write_bytes(client_js().plain)
        modules = {
            "client.js": ours,
            "centrifuge": PACKAGES / "centrifuge" / "build" / "index.mjs",
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in modules}
        for _ in range(ROUNDS):  # in turns, so that both meet the same machine
            for name, module in modules.items():
                found[name].append(measure(module, count))
    for name, rounds in found.items():
        row = {
            "client": name,
            "messages": count,
            "per_cpu_second": round(count / min(each["cpu"] for each in rounds)),
            "per_second": round(count / min(each["seconds"] for each in rounds)),
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
