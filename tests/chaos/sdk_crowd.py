"""Clients of a chaos run that are SDKs: `centrifuge-python`, unmodified.

All are driven by one asyncio loop in a thread. They subscribe with recovery, count
offsets, and come back by themselves; their tokens expire every few seconds. What they
got is in `ledger.Session`: as long as the SDK is told that it has recovered, it is the
same one. What they publish is numbered by a session as well, which ends with the first
call that fails: it may have been taken.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from typing import Any

import centrifuge
from ledger import Ledger, Session
from node import KEY

from simple_ws.tokens import Tokens

__all__ = ["SdkCrowd", "SdkMember"]

HALL = "hall"
#: Seconds of a call of the SDK.
_CALL = 10.0
#: Seconds for which a token is good: it expires all the time, and nobody may notice.
_TOKEN = 4.0
#: Seconds for which something of a client is on its way while all is well.
_SILENCE = 0.5


class SdkMember:
    """A client of one server, and what it is told.

    Attributes:
        server: its index.
        rate: messages a second; 0: it only listens.
        session: by which its messages are known; None before it is connected.
        ends: how its connections ended, by code and reason.
        silent: as of `crowd.Member`.
        told: how often it was told that it has not recovered.
        failed: how often a call of `publish` failed, by its error.
        whole: it has to recover, unless the engine has lost its data.
        joined: it gets what is published.
        node: the name of the worker that serves it.
    """

    def __init__(
        self, ledger: Ledger, server: int, address: tuple[str, int], rate: float
    ) -> None:
        self.server, self.rate = server, rate
        self.session: Session | None = None
        self.ends: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.silent, self.heard_at, self.told = 0.0, 0.0, 0
        self.whole = True
        self.joined = False
        self._ledger = ledger
        self._address = address
        self._reader: Session | None = None
        self._offset = self._wipes = 0
        self.node = ""

    @property
    def ready(self) -> bool:
        """It is subscribed, and what it publishes comes back."""
        session = self.session
        if session is None or not self.joined:
            return False
        waits = session.sent > session.returned
        return not waits or time.monotonic() - self.heard_at < _SILENCE

    @property
    def settled(self) -> bool:
        """All that was sent has come back, or the call has failed."""
        session = self.session
        return session is not None and session.sent == session.returned

    async def start(self) -> None:
        """Connect, and subscribe."""
        host, port = self._address
        self.client = centrifuge.Client(
            f"ws://{host}:{port}/live/websocket",
            events=self,
            get_token=self._make_token,
            timeout=_CALL,
            max_server_ping_delay=4.0,
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.5,
            proxy=None,
        )
        sub = self.client.new_subscription(HALL, events=self, recoverable=True)
        await sub.subscribe()
        await self.client.connect()

    async def publish(self) -> None:
        """Publish one message, and wait until it is acknowledged."""
        session = self.session
        if session is None:
            return
        self.heard_at = time.monotonic()
        session.sent += 1
        count = session.sent - 1
        try:
            await self.client.publish(HALL, f"{session.number} {count}")
        except centrifuge.CentrifugeError as error:
            self.failed[type(error).__name__] += 1
            session.open = False
            self.session = self._ledger.session()
            self.session.node = self.node
        else:
            self._ledger.acknowledged.add((session.number, count))

    async def _make_token(self) -> str:
        return Tokens(KEY).connection(f"client {id(self)}", expires_in=_TOKEN)

    # The events of the SDK

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)

        async def ignore(context: object) -> None:
            """This one means nothing here."""

        return ignore

    async def on_connected(self, context: Any) -> None:
        if self.session is None:
            self.session = self._ledger.session()
        self.node = self.session.node = context.data

    async def on_connecting(self, context: Any) -> None:
        if context.code:  # 0: for the first time
            self.ends[f"{context.code} {context.reason}"] += 1
        self.joined = False

    async def on_disconnected(self, context: Any) -> None:
        if context.code:
            self._note(f"it does not come back: {context.code} {context.reason}")

    async def on_subscribing(self, context: Any) -> None:
        self.joined = False

    async def on_unsubscribed(self, context: Any) -> None:
        if context.code:
            self._note(f"it has left the topic: {context.code} {context.reason}")

    async def on_error(self, context: Any) -> None:
        self.failed[type(context.error).__name__] += 1

    async def on_subscribed(self, context: Any) -> None:
        position = context.stream_position
        if self._reader is None or not context.recovered:
            if self._reader is not None:
                self._tell()
                self._reader.open = False
            self._reader = self._ledger.reader()
            self._reader.begin_part(position.epoch.partition(":")[0])
            self._offset = position.offset
        self._wipes = self._ledger.wipes
        self.joined = True

    async def on_publication(self, context: Any) -> None:
        _, name, number, publisher, count = context.pub.data.split()
        if context.pub.offset != self._offset + 1:
            self._note(f"offset {context.pub.offset} after {self._offset}")
        self._offset = context.pub.offset
        assert self._reader is not None
        self._reader.note_message(self._ledger.index(name), int(number))
        session = self.session
        if session is not None and int(publisher) == session.number:
            now = time.monotonic()
            self.silent = max(self.silent, now - self.heard_at)
            session.returned, self.heard_at = int(count) + 1, now

    def _tell(self) -> None:
        """It has not recovered."""
        self.told += 1
        if self.whole and self._wipes == self._ledger.wipes:
            self._note("it has not recovered, and the engine has all")
        if self.session is not None:
            self.session.returned = self.session.sent

    def _note(self, text: str) -> None:
        number = "new" if self._reader is None else self._reader.number
        self._ledger.note("an SDK", f"{text} (reader {number})")


class SdkCrowd:
    """Drives them, from `start` to `stop`; see `crowd.Crowd`."""

    def __init__(
        self, ledger: Ledger, members: list[SdkMember], rng: random.Random
    ) -> None:
        self.members = members
        self.publishing = True
        self.error: BaseException | None = None
        self._ledger, self._rng = ledger, rng
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="crowd")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leave; what is open stays so in the account."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def ready(self) -> bool:
        """All are subscribed, and publish."""
        return all(member.ready for member in self.members)

    def settled(self) -> bool:
        """All that was sent has come back."""
        return all(member.settled for member in self.members)

    def noise(self, server: int, pid: int, count: int) -> None:
        """Have another process than that one of a server publish noise to it."""
        for member in self.members:
            if member.server != server or not member.joined:
                continue
            if not member.node.startswith(f"{pid}-"):
                call = member.client.rpc("noise", [pid, count])
                asyncio.run_coroutine_threadsafe(call, self._loop)
                return

    # The thread

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            self.error = error

    async def _main(self) -> None:
        for member in self.members:
            await member.start()
        publishers = [
            asyncio.create_task(self._publish(member))
            for member in self.members
            if member.rate
        ]
        await self._stopping.wait()
        for task in publishers:
            task.cancel()
        done = await asyncio.gather(*publishers, return_exceptions=True)
        for member in self.members:
            await member.client.disconnect()
        failures = [each for each in done if isinstance(each, Exception)]
        if failures:
            raise failures[0]

    async def _publish(self, member: SdkMember) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) / member.rate)
            if self.publishing and member.joined:
                await member.publish()
