"""Drives an SDK of the Centrifugo client protocol in JavaScript, in Node or in a page.

`tests/live/driver.mjs` carries out what is said here, with the npm package `centrifuge`
or with our client.js. All waiting has a deadline.
"""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node_js import NODE, SCRIPTS

__all__ = ["Sdk", "SdkClient", "SdkError", "node_sdk"]

#: Seconds; those of the JavaScript in between are fewer.
DEADLINE = 25


class SdkError(Exception):
    """A command of a test has failed; the message is that of JavaScript."""


class Sdk:
    """Clients of one process of Node, or of one page.

    Args:
        carry: carries a command to the driver, and returns its result.
    """

    def __init__(self, carry: Callable[[dict[str, Any]], Any]) -> None:
        self._carry = carry

    def do(self, command: str, **args: Any) -> Any:
        """See the methods do_… of driver.mjs."""
        return self._carry({"do": command, **args})

    def do_all(self, commands: list[tuple[str, dict[str, Any]]]) -> None:
        """Begin all at once, one after the other, and wait for all of them."""
        self.do("all", commands=[{"do": name, **args} for name, args in commands])

    def reset(self, url: str) -> None:
        """Forget all clients; the next ones connect to a URL, unless told otherwise."""
        self.do("reset", url=url)

    def client(self, name: str = "one", **args: Any) -> SdkClient:
        """Make a client; it does not connect.

        Args:
            name: for `do`.
            args: `options` of the SDK, `url`, `tokens` and `data` that its functions
                give one after the other.
        """
        self.do("client", name=name, **args)
        return SdkClient(self, name)

    def of(self, name: str, channel: str | None = None) -> SdkClient:
        """A client that was made before, or its subscription."""
        return SdkClient(self, name, channel)


class SdkClient:
    """A client of an SDK, or with a channel a subscription of it."""

    def __init__(self, sdk: Sdk, name: str, channel: str | None = None) -> None:
        self.sdk, self.name, self.channel = sdk, name, channel

    def do(self, command: str, **args: Any) -> Any:
        """See the methods do_… of driver.mjs."""
        if self.channel is not None:
            args["channel"] = self.channel
        return self.sdk.do(command, name=self.name, **args)

    def connect(self) -> SdkClient:
        """Connect, and wait until it is connected."""
        self.do("connect")
        self.do("ready")
        return self

    def subscribe(self, channel: str, wait: bool = True, **args: Any) -> SdkClient:
        """Subscribe; `args` are `options` of the SDK, `tokens` and `data`."""
        self.do("subscribe", channel=channel, **args)
        subscription = SdkClient(self.sdk, self.name, channel)
        if wait:
            subscription.do("ready")
        return subscription

    @property
    def state(self) -> str:
        """Its state, as the SDK says it."""
        state: str = self.do("state")
        return state

    def call(self, method: str, *args: Any) -> Any:
        """Call a method such as publish, and wait for what it resolves to.

        Raises:
            SdkError: It was rejected; with code and message.
        """
        return _result(self.do("call", method=method, args=args))

    def begin(self, method: str, *args: Any) -> Callable[[], Any]:
        """Call a method; returns what waits for its result."""
        later = f"call {next(_NUMBERS)}"
        self.do("call", method=method, args=args, later=later)
        return lambda: _result(self.sdk.do("result", later=later))

    def events(self, event: str) -> list[Any]:
        """The contexts of an event so far."""
        events: list[Any] = self.do("events", event=event)
        return events

    def wait_for(self, event: str, count: int = 1, since: int = 0) -> list[Any]:
        """Wait until an event has come `count` times; its contexts from `since` on."""
        events: list[Any] = self.do("wait", event=event, count=count, since=since)
        return events


_NUMBERS = itertools.count()


def _result(done: dict[str, Any]) -> Any:
    if "error" in done:
        raise SdkError(done["error"]["code"], done["error"]["message"])
    return done["value"]


@contextmanager
def node_sdk(module: str | Path) -> Iterator[Sdk]:
    """Run a driver in Node.

    Args:
        module: "centrifuge", or the path of a module with its names.
    """
    process = _NodeProcess(str(module))
    try:
        yield Sdk(process.carry)
    finally:
        uncaught = process.end()
    assert uncaught == []


class _NodeProcess:
    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            [NODE, str(SCRIPTS / "node_driver.mjs"), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._uncaught: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def carry(self, command: dict[str, Any]) -> Any:
        number = next(self._numbers)
        answers = self._answers[number] = queue.SimpleQueue()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, **command}) + "\n")
        self._process.stdin.flush()
        try:
            answer = answers.get(timeout=DEADLINE)
        except queue.Empty:
            raise SdkError(f"no answer to {command}; {self._uncaught}") from None
        finally:
            del self._answers[number]
        if "error" in answer or self._uncaught:
            raise SdkError(f"{command}: {answer.get('error')}; {self._uncaught}")
        return answer["result"]

    def end(self) -> list[str]:
        """End the process; returns what was thrown and not caught."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(DEADLINE)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join(DEADLINE)
        return self._uncaught

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                said = json.loads(line)
                if "uncaught" in said:
                    self._uncaught.append(said["uncaught"])
                elif said["id"] in self._answers:
                    self._answers[said["id"]].put(said)
