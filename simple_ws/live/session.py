"""`Session`: what one client of `live` has said and asked for, and its limits.

    WAITING ── connect ──► CONNECTING ── the reply ──► CONNECTED
    any of them ── the connection ends ──► ENDED

Commands are carried out one after the other, in order: while a hook is awaited the next
ones wait, except that calls of methods (`rpc`) run beside them. What a command does is
in `actions`, how frames are read and written in `commands`.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from types import GeneratorType
from typing import Any, ClassVar, Final

from ..cluster.history import Entry
from ..handlers.return_values import yes_or_no
from ..loop.deferred import DeferredCancelled, Steps, is_deferred, run_steps
from ..server.feeds import Arrival
from ..speedups import json_text
from ..token_bucket import TokenBucket
from . import codes
from .codes import Code, Disconnect, DisconnectClient, LiveError, Unsubscribe
from .commands import (
    Command,
    Malformed,
    Pong,
    encode_error,
    encode_push,
    encode_reply,
    read_commands,
)
from .interfaces import LiveHost

__all__ = ["Session", "Stage", "Subscription"]

#: Malformed commands, the last of which ends the connection.
_MAX_MALFORMED = 10
#: Refused commands in a row, likewise; besides one for each topic, as SDKs subscribe to
#: all of them at once, and try it again.
_MAX_REFUSED = 100
#: Commands that wait for one that is awaited, and calls that run, at once.
_MAX_WAITING, _MAX_CALLS = 1000, 16


class Stage(enum.Enum):
    """See the head of the module."""

    WAITING = enum.auto()
    CONNECTING = enum.auto()
    CONNECTED = enum.auto()
    ENDED = enum.auto()


class _Later(enum.Enum):
    """The reply comes later, or there is none."""

    LATER = enum.auto()


LATER: Final = _Later.LATER


class Subscription:
    """A topic that the client is in, or on its way into.

    Attributes:
        by_server: the server has subscribed it.
        by_token: it has, since the token of the connection says so.
        join_leave: it is told who comes and goes.
        positioned: it counts messages.
        info: of the client in the topic, any JSON; None without it.
        due: see `expiry`.
        pending: called with where it begins, once that is known, or None if it does not
            begin; None when it gets messages.
    """

    __slots__ = (
        "by_server",
        "by_token",
        "due",
        "info",
        "join_leave",
        "pending",
        "positioned",
    )

    def __init__(
        self,
        by_server: bool = False,
        join_leave: bool | None = False,
        info: Any = None,
    ) -> None:
        self.by_server, self.join_leave = by_server, bool(join_leave)
        self.info = info
        self.by_token = False
        self.due: int | None = None
        self.positioned = False
        self.pending: Callable[[Arrival | None], object] | None = None


class Session:
    """One client.

    Args:
        live: the handler.
        client: its connection, a `LiveClient`.

    Attributes:
        stage: see the head of the module.
        topics: its subscriptions.
        at_connect: topics that the server has subscribed it to before it was connected.
        user: of the token that it connected with; None: it had none.
        info: of the client, any JSON; None without it.
        informed: its info is what the user's function said, and not its token.
        slot, pinged: see `heartbeat`.
        answers_pings: what it says tells whether it is there.
        due: see `expiry`.
    """

    answers_pings: ClassVar = True

    __slots__ = (
        "_bucket",
        "_busy",
        "_calls",
        "_headers",
        "_malformed",
        "_out",
        "_refused",
        "_waiting",
        "at_connect",
        "client",
        "due",
        "info",
        "informed",
        "live",
        "pinged",
        "slot",
        "stage",
        "topics",
        "user",
    )

    def __init__(self, live: LiveHost, client: Any) -> None:
        self.live, self.client = live, client
        self.stage = Stage.WAITING
        self.topics: dict[str, Subscription] = {}
        self.at_connect: dict[str, Any] = {}
        self.user: str | None = None
        self.info: Any = None
        self.informed = False
        self.slot, self.pinged = 0, False
        self.due: int | None = None
        self._busy = False
        self._calls = self._malformed = self._refused = 0
        self._headers: tuple[Any, str] | None = None
        self._out: list[str] | None = None
        self._waiting: deque[Command] | None = None
        rate = live.command_rate
        now = client._loop.clock()
        self._bucket = None if rate is None else TokenBucket(*rate, now)

    @property
    def is_connected(self) -> bool:
        """Whether its `connect` was accepted, and the connection has not ended."""
        return self.stage is Stage.CONNECTED

    @property
    def client_id(self) -> str:
        """The connection, as clients know it."""
        return f"{self.client.id}@{self.live.server.cluster.id}"

    def inform(self, info: Any) -> None:
        """What others see of the client; a dict is what members are shown with."""
        if info != self.info:
            self.info = info
            self.client.present_as = info if isinstance(info, dict) else None

    def info_in(self, topic: str) -> dict[str, Any]:
        """The client as others in a topic see it."""
        client = self.client
        user = client.client_id
        info = {"user": "" if user is None else str(user), "client": self.client_id}
        said = client.present_as or self.info
        if said is not None:
            info["conn_info"] = said
        subscription = self.topics.get(topic)
        if subscription is not None and subscription.info is not None:
            info["chan_info"] = subscription.info
        return info

    def headers_in(self, topic: str) -> str:
        """The same as headers of what it publishes, see `WithHeaders`.

        As long as nothing changes they are encoded once: that is a seventh of what a
        publication costs.
        """
        client, subscription = self.client, self.topics.get(topic)
        told = (
            str(client.client_id),
            client.present_as or self.info,
            None if subscription is None else subscription.info,
        )
        if self._headers is None or self._headers[0] != told:
            self._headers = told, json_text({"info": self.info_in(topic)})
        return self._headers[1]

    # Input

    def receive(self, frame: str | bytes) -> None:
        """A frame has come."""
        self.pinged = False
        self._out = []
        for command in read_commands(frame):
            if not self.client.is_open():
                break
            self._take(command)
        self.flush()
        self._out = None

    def _take(self, command: Command | Pong | Malformed) -> None:
        if isinstance(command, Malformed):
            self._note_malformed(command.id, codes.BAD_REQUEST)
        elif isinstance(command, Pong):
            return
        elif (command.method == "connect") is not (self.stage is Stage.WAITING):
            before = self.stage is Stage.WAITING
            error = codes.UNAUTHORIZED if before else codes.BAD_REQUEST
            self._note_malformed(command.id, error)
        elif not self._may_pass():
            self._refuse(command)
        else:
            self._refused = 0
            self._start(command)

    def _start(self, command: Command) -> None:
        if not self._busy:
            self._do(command)
            return
        if self._waiting is None:
            self._waiting = deque()
        if len(self._waiting) >= _MAX_WAITING:
            self._refuse(command)
            return
        self._waiting.append(command)
        if not self.client._input_held and self.client.is_open():
            self.client._hold_input(True)  # the rest of this frame still comes

    def _note_malformed(self, number: int, error: Code) -> None:
        self._malformed += 1
        self.live.counts.malformed += 1
        self.reply_error(number, *error)
        if self._malformed >= _MAX_MALFORMED:
            self.disconnect(Disconnect.BAD_REQUEST)

    def _may_pass(self) -> bool:
        bucket = self._bucket
        if bucket is None or bucket.take(self.client._loop.clock()):
            return True
        # What is under way behind it is refused, too: the client sends all again, in
        # order.
        bucket.rest(self._pause)
        return False

    @property
    def _pause(self) -> float:
        """Seconds that a client has to wait that sends too many."""
        rate = self.live.command_rate
        return 1.0 if rate is None else max(1 / rate[0], 0.1)

    def _refuse(self, command: Command) -> None:
        """There are too many of them: say so, and disconnect only who does not hear."""
        self._refused += 1
        code, text = codes.TOO_MANY_REQUESTS
        text = f"{text}: wait {self._pause:.1f} s"
        self.reply_error(command.id, code, text, temporary=True)
        if self._refused >= _MAX_REFUSED + self.live.max_topics:
            self.disconnect(Disconnect.TOO_MANY_REQUESTS)

    # Carrying out

    def _do(self, command: Command) -> None:
        beside = command.method == "rpc"
        if beside and self._calls >= _MAX_CALLS:
            self._refuse(command)
            return
        self.live.counts.commands[command.method] += 1
        result = run_steps(self._steps(command))
        if not is_deferred(result):
            return
        if beside:
            self._calls += 1
        else:
            self._busy = True
        try:
            self.live.server._run_deferred(result, partial(self._on_done, beside))
        except Exception as error:  # there is nothing that runs it
            self.note_failure(command.method, error)
            self.reply_error(command.id, *codes.INTERNAL, temporary=True)
            self._on_done(beside, None, None)

    def pause(self) -> None:
        """The next commands wait until `resume`."""
        self._busy = True

    def resume(self) -> None:
        """It is connected: carry out the commands that wait."""
        self._do_all_waiting()

    def _do_all_waiting(self) -> None:
        """Carry out the commands that wait, unless the client is disconnected."""
        self._busy, client = False, self.client
        while self._waiting and not self._busy and client.is_open():
            self._do_waiting(self._waiting.popleft())
        if client._input_held and not (self._waiting and client.is_open()):
            client._hold_input(False)

    def _do_waiting(self, command: Command) -> None:
        if self.stage is Stage.WAITING:  # the `connect` before it was refused
            self.reply_error(command.id, *codes.UNAUTHORIZED)
        else:
            self._do(command)

    def _on_done(self, beside: bool, _: object, error: BaseException | None) -> None:
        if beside:
            self._calls -= 1
        elif self.stage is not Stage.CONNECTING or not self.client.is_open():
            self._do_all_waiting()
        # Otherwise subscriptions by the server begin; `resume` comes with the reply.

    def _steps(self, command: Command) -> Steps:
        """Carry out a command, and answer it."""
        number, method, params = command
        action = self.live.find_action(method)
        try:
            result = action(self, number, params)
            if type(result) is GeneratorType:
                result = yield from result
            if result is not LATER:
                self.reply(number, method, result)
        except LiveError as error:
            self.reply_error(number, error.code, error.message, error.temporary)
        except DisconnectClient as end:
            self.disconnect(end.code)
        except (Exception, DeferredCancelled) as error:
            self.note_failure(method, error)
            self.reply_error(number, *codes.INTERNAL, temporary=True)

    def ask(self, name: str, *args: Any) -> Steps:
        """Call a hook of the user's; None if there is none, or it says nothing.

        Raises:
            LiveError: It has refused.
        """
        hook = self.live.hooks[name]
        if hook is None:
            return None
        answer = yield self.call(name, hook, *args)
        if answer is False:
            raise LiveError(*codes.PERMISSION_DENIED)
        return None if answer is True else answer

    def check(self, action: str, topic: str) -> Steps:
        """Whether the client may do something.

        Raises:
            LiveError: It may not.
            WrongReturnValue: The user's function has not said True or False.
        """
        authorize = self.live.hooks["authorize"]
        answer = None
        if authorize is not None:
            args = self.client, action, topic
            answer = yield self.call("authorize", authorize, *args)
        if answer is None or not yes_or_no("authorize", answer):
            raise LiveError(*codes.PERMISSION_DENIED)

    def may(self, action: str, topic: str) -> Steps:
        """The same, as True or False."""
        try:
            yield from self.check(action, topic)
        except LiveError:
            return False
        return True

    def call(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of the user's; it is logged if it blocks the loop."""
        self.flush()  # it may write to this client
        client = self.client
        return client._host._log.call(client, "live.", function, *args)

    def note_failure(self, what: str, error: BaseException) -> None:
        """A function of the user's has failed."""
        self.client._host._log.note_failure(
            "commands of live failed",
            "the command %s failed for %r",
            what,
            self.client,
            error=error,
            client=self.client,
        )

    # Output

    def reply(
        self,
        number: int,
        method: str,
        result: object,
        missed: Sequence[Entry] = (),
    ) -> None:
        """Answer a command; see `commands.encode_reply`."""
        if number:
            self._write(encode_reply(number, method, result, missed))

    def reply_error(
        self, number: int, code: int, message: str, temporary: bool = False
    ) -> None:
        """Answer a command with an error."""
        self.live.counts.note_error(code)
        self._write(encode_error(number, code, message, temporary))

    def push(self, kind: str, value: object, channel: str | None = None) -> None:
        """Tell the client something that it did not ask for."""
        self.flush()
        self.client._write_frame(encode_push(kind, value, channel))

    def _write(self, text: str) -> None:
        if self._out is None:
            self.client._write_frame(text)
        else:
            self._out.append(text)

    def flush(self) -> None:
        """Send the replies so far in one frame: what is written next comes after it."""
        if self._out:
            text = "\n".join(self._out)
            self._out.clear()
            self.client._write_frame(text)

    def disconnect(self, code: Code) -> None:
        """End the connection, and say whether the client should come back."""
        self.flush()
        self.client.close(*code)

    def end(self) -> None:
        """The connection has ended."""
        self.stage = Stage.ENDED
        topics, self.topics = self.topics, {}
        expiries = self.live.expiries
        expiries.discard(self)
        for subscription in topics.values():
            expiries.discard(subscription)
            if subscription.pending is not None:
                subscription.pending(None)
        self._waiting = None

    # Topics, see `actions`

    def join(self, topic: str, client: Any, since: Any) -> bool:
        """The server subscribes the client; see `Hub.subscribe`."""
        return self.live.join_topic(self, topic, since)

    def leave(self, topic: str, client: Any) -> None:
        """The server ends a subscription."""
        self.live.leave_topic(self, topic, Unsubscribe.SERVER)
