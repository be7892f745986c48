"""The command line shared by all peers, and the line that says they are ready.

Each peer echoes (``--mode echo``) or sends every message to all clients (``--mode
broadcast``), as its own documentation shows: text arrives as ``str``, binary as
``bytes``, and is sent back as the same type. Some can do more: ``publish``, to all
clients by a topic; ``topics``, to those with the same path; ``thread``, to all from
another thread.
"""

import argparse
import importlib
import socket
import ssl
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from threading import Thread
from typing import Any

#: What a server does with a message.
MODES = ["echo", "broadcast", "publish", "topics", "thread"]

#: permessage-deflate parameters, the same wherever a peer lets one choose.
LEVEL = 6
MEM_LEVEL = 8
WINDOW = 15

#: Unsent bytes a client may cause: enough for every work measured here.
WRITE_LIMIT = 64 << 20


def parse(**extra: dict) -> argparse.Namespace:
    """Read the command line; ``extra`` are options of one peer (name=kwargs)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--mode", choices=MODES, default="echo")
    parser.add_argument("--deflate", type=int, choices=[0, 1], default=0)
    parser.add_argument(
        "--max-size", type=int, default=2 << 20, help="bytes of a message"
    )
    parser.add_argument("--loop", choices=["asyncio", "uvloop"])
    parser.add_argument("--tls", help="PEM file with a certificate and its key")
    for name, options in extra.items():
        parser.add_argument("--" + name.replace("_", "-"), **options)
    return parser.parse_args()


def tls_context(args: argparse.Namespace) -> ssl.SSLContext | None:
    """What the peers' own documentation makes of a certificate; None without."""
    if not args.tls:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(args.tls)
    return context


def run(main: Coroutine, args: argparse.Namespace) -> None:
    """Run a coroutine in the loop that was asked for; uvloop otherwise."""
    importlib.import_module(args.loop or "uvloop").run(main)


def in_thread(work: Callable[[Any], object]) -> Callable[[Any], object]:
    """What hands something to a thread, which does `work` with it."""
    queue: SimpleQueue = SimpleQueue()

    def forever() -> None:
        while True:
            work(queue.get())

    Thread(target=forever, daemon=True).start()
    return queue.put


def ready(port: int) -> None:
    """Tell the runner where we listen."""
    print("PORT", port, flush=True)


def listening_socket(port: int) -> socket.socket:
    """A listening socket for peers that take one, with the backlog all of them get."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    return listener
