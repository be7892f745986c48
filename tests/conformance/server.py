"""Echo server for the Autobahn test suite; run.py starts it and stops it by SIGTERM.

It prints ``port=<number> backend=<name>`` once it listens. Limits are raised above the
largest message of the suite (16 MiB, cases 9.1.6 and 9.2.6); everything else has its
default.
"""

from __future__ import annotations

import signal
import threading

import simple_ws
from simple_ws import Client, Server, WebSocket

_MIB = 1024 * 1024


class Echo(WebSocket):
    """Send back each message as it came: text as text, binary as binary."""

    def on_message(self, msg: str | bytes, client: Client) -> str | bytes:
        return msg


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = Server(
        "127.0.0.1",
        0,
        max_size=32 * _MIB,
        write_limit=64 * _MIB,
        # The suite counts messages; whole frames keep its reports readable.
        max_frame_size=None,
        # No heartbeat in the middle of a case that waits on purpose.
        ping_interval=60,
        compression=True,
    )
    server.mount("*", Echo())
    server.start()
    print(f"port={server.port} backend={simple_ws.BACKEND}", flush=True)
    stopped.wait()
    server.stop()


if __name__ == "__main__":
    main()
