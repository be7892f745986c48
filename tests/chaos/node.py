"""The server of a chaos run: `node.py HOST PORT WORKERS ENGINE DIRECTORY HISTORY`.

Each worker writes down what becomes of each message, in a file of its own: a write to a
file outlives the process. `ledger` reads it. Lines:

    t N PUBLISHER K    message N of this node was taken: the K-th of a client
    l N                the engine was not there
    a N                the engine has it
    u N                it was given to the engine, and nobody knows
    e N                the engine has it, but it was delivered here before it came back
    r N                the engine has refused it
    s up|down          the engine has come, or has gone
    c JSON             the counts, when the process ends as it should

Clients of the room "hall" get "m NODE N PUBLISHER K", and "gap COUNT" where `on_gap`
was called; with a history "join POSITION RECOVERED GAP", too. Messages to other topics
are noise.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from simple_ws import Server, WebSocket
from simple_ws.live import Connected
from simple_ws.tokens import Tokens

HALL = "hall"
#: Bytes of a message of noise.
NOISE = 2**16
#: Seconds between two pings to an SDK: shorter than most faults last.
HEARTBEAT = 3.0
#: For the tokens of SDKs.
KEY = "a key of at least thirty-two bytes"


class Journal:
    """Writes down what a node does.

    Args:
        directory: of the journals.
        server: is serving.
    """

    def __init__(self, directory: str, server: Server) -> None:
        assert server.engine is not None
        self.name = f"{os.getpid()}-{time.monotonic_ns()}"
        self.taken = self.noise = 0
        self._file = os.open(Path(directory, self.name), os.O_CREAT | os.O_WRONLY)
        self._host = server.engine
        self._channel = self._host.channels.topic(HALL)
        self._watch(server.engine._node)
        self._watch_kept(server.engine._node.kept)

    def write(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())

    def take(self, rest: str) -> str:
        """A message has come from a client; return it as it is published."""
        self.taken += 1
        self.write("t", self.taken, rest)
        return f"m {self.name} {self.taken} {rest}"

    @property
    def lost(self) -> int:
        """Messages that were delivered here alone, as the engine was not there."""
        return self._host.counts.lost

    @property
    def refused(self) -> int:
        """Messages to the history that were not taken, as too many wait."""
        return self._host.counts.refused

    def end(self) -> None:
        """The process has served; all is closed."""
        counts = asdict(self._host.counts)
        self.write("c", json.dumps({**counts, "noise": self.noise}))

    def _watch(self, node: Any) -> None:
        """Note what the node alone knows of each message."""
        accepted, refused = node._on_accepted, node._on_refused
        deliver_unsure = node._deliver_unsure

        def note_accepted() -> None:
            self._note("a", list(node._sent)[:1])
            accepted()

        def note_refused(reason: str) -> None:
            self._note("r", list(node._sent)[:1])
            refused(reason)

        def note_unsure() -> None:
            self._note("u", node._sent)
            early = [sent for sent in node._returning.values() if sent.accepted]
            self._note("e", early)
            deliver_unsure()

        node._on_accepted, node._on_refused = note_accepted, note_refused
        node._deliver_unsure = note_unsure

    def _watch_kept(self, kept: Any) -> None:
        """The same of messages to a topic with history."""
        stored, refused, dropped = kept.on_stored, kept.on_refused, kept._note_dropped

        def note_first(word: str) -> None:
            if kept._unconfirmed._given:
                self.write(word, kept._unconfirmed._given[0].entry[2].seq)

        def note_stored(event: object) -> None:
            note_first("a")
            stored(event)

        def note_refused(reason: str) -> None:
            note_first("r")
            refused(reason)

        def note_dropped(message: Any) -> None:
            self.write("u" if message.sent else "l", message.entry[2].seq)
            dropped(message)

        kept.on_stored, kept.on_refused = note_stored, note_refused
        kept._note_dropped = note_dropped

    def _note(self, word: str, messages: Any) -> None:
        for sent in messages:
            if sent is not None and sent.message.channel == self._channel:
                self.write(word, sent.seq)


class Hall(WebSocket):
    """Everybody hears everybody, and of what is missing.

    Attributes:
        journal: of this worker, once it serves.
    """

    journal: Journal

    def on_open(self, client: Any) -> None:
        client.send(f"hello {self.journal.name}")
        since = client.query.get("since")
        client.subscribe(HALL, since=int(since) if (since or "").isdigit() else since)

    def on_join(self, client: Any, topic: str, join: Any) -> None:
        client.send(f"join {join.position} {join.recovered} {join.gap}")

    def on_message(self, msg: Any, client: Any) -> None:
        word, _, rest = msg.partition(" ")
        if word == "p":
            self._publish(rest)
        elif word == "noise":
            self.make_noise(*rest.split())

    def on_gap(self, topic: str | None, missing: int | None) -> None:
        if topic == HALL:
            for client in self.server.members(HALL):
                client.send(f"gap {missing}")

    def _publish(self, rest: str) -> None:
        """Publish a message of a client, and note whether the engine was there."""
        lost, refused = self.journal.lost, self.journal.refused
        text = self.journal.take(rest)
        self.server.publish(HALL, text)
        if self.journal.lost > lost:
            self.journal.write("l", self.journal.taken)
        if self.journal.refused > refused:
            self.journal.write("r", self.journal.taken)

    def make_noise(self, pid: str, count: str) -> None:
        """Publish what another process listens to, and does not read."""
        for _ in range(int(count)):
            self.journal.noise += 1
            self.server.publish(f"noise-{pid}", "x" * NOISE)


def serve_sdks(server: Server, hall: Hall) -> None:
    """The same hall for SDKs: what they publish is numbered likewise."""

    def hello(client: Any, request: Any) -> Connected:
        return Connected(data=hall.journal.name)

    def take(client: Any, topic: str, data: str) -> str:
        return hall.journal.take(data)

    live = server.live(
        "/live",
        authorize=lambda client, action, topic: True,
        on_connect=hello,
        on_publish=take,
        tokens=Tokens(KEY),
        heartbeat=HEARTBEAT,
        heartbeat_timeout=HEARTBEAT / 2,
    )

    @live.method
    def noise(client: Any, data: Any) -> None:
        hall.make_noise(*map(str, data))

    publish = server._publish_confirmed

    def publish_and_note(*args: Any) -> None:
        refused = hall.journal.refused
        publish(*args)
        if hall.journal.refused > refused:
            hall.journal.write("r", hall.journal.taken)

    server._publish_confirmed = publish_and_note  # type: ignore[method-assign]


def main(
    host: str,
    port: str,
    workers: str,
    engine: str,
    directory: str,
    history: str,
    live: str,
) -> None:
    """Serve until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options: dict[str, Any] = {"engine": engine} if engine else {}
    server = Server(host, int(port), workers=int(workers), ping=False, **options)
    hall = server.mount("*", Hall())
    if int(history):
        server.topic(HALL, history=int(history), keep=600)
    if int(live):
        serve_sdks(server, hall)

    @server.http("/stats")
    def stats(request: object) -> Any:
        return server.stats()

    @server.on_worker_start
    def begin(worker: object) -> None:
        hall.journal = Journal(directory, server)
        assert server.engine is not None
        server.engine.listen(server.engine.channels.topic(f"noise-{os.getpid()}"))

    @server.on_worker_stop
    def end(worker: object) -> None:
        hall.journal.end()

    @server.on_engine
    def changed(state: Any) -> None:
        hall.journal.write("s", "up" if state.up else "down")

    server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
