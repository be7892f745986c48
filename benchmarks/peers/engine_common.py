"""What the peers of `engines.py` share: the message, the pace, the command line.

    engine_X.py receive REDIS_SOCKET            serve, print "PORT n"
    engine_X.py publish REDIS_SOCKET RATE SECONDS

A message is 128 characters; the first 20 are when it was published, in nanoseconds of
the monotonic clock.
"""

import asyncio
import sys
import time

TOPIC = "bench"
SIZE = 128


def message():
    """The next message."""
    return f"{time.monotonic_ns():020d}".ljust(SIZE, ".")


async def pace(send, rate, seconds):
    """Await `send(message())` at a rate, or as fast as that goes."""
    begun, sent, passed = time.monotonic(), 0, 0.0
    while passed < seconds:
        last = min(passed * rate, sent + rate / 200)  # what it has missed comes later
        while sent < last:
            await send(message())
            sent += 1
        await asyncio.sleep(0.001)
        passed = time.monotonic() - begun


def main(receive, publish):
    """Be one of the two processes.

    Args:
        receive: serves, given the URL of Redis.
        publish: publishes, given the URL, a rate, and seconds; a coroutine function.
    """
    role, path, *rest = sys.argv[1:]
    url = f"unix://{path}"
    if role == "receive":
        receive(url)
    else:
        asyncio.run(publish(url, *map(float, rest)))
