"""The server of a soak: echoes, and reports its state every second.

Started by `run.py`. Lines on standard output are JSON: first {"port": …}, then one with
counts every second. It ends when standard input does.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from typing import Any

import simple_ws
from simple_ws import Server, WebSocket


class Echo(WebSocket):
    """Sends back what comes, as it came."""

    def on_message(self, msg: Any, client: Any) -> Any:
        return msg


class Alarm(logging.Handler):
    """Collects what may not be there: errors, and tracebacks of any level."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.lines.append(self.format(record))


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    alarm = Alarm()
    logging.getLogger("simple_ws").addHandler(alarm)
    # Heartbeats often, so that they matter; time enough for clients that sleep.
    server = Server("127.0.0.1", 0, ping_interval=2, ping_timeout=20, backlog=4096)
    handler = server.mount("*", Echo())

    def report() -> None:
        tell(
            clients=len(server.clients),
            buffered=server.reactor.buffered,
            messages=handler._counters.messages_received,
            received=handler._counters.bytes_received,
            sent=handler._counters.bytes_sent,
            ends=server._log_counts.ends,
            slow=server._log_counts.slow_calls,
            alarms=alarm.lines[:20],
        )

    server.every(1.0, report)
    server.start()
    tell(port=server.port, backend=simple_ws.BACKEND)
    ended = threading.Thread(target=sys.stdin.read, daemon=True)
    ended.start()
    ended.join()
    server.stop(drain=5)
    report()


if __name__ == "__main__":
    main()
