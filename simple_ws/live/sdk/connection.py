"""`LiveConnection`: a client of the protocol, as its user sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from ...checks import duration, whole
from ...constants import CloseCause
from ...errors import ConnectionClosed, ConnectTimeout, InvalidState
from .arguments import check_topic, position_of, publish_params
from .calls import Call
from .codec import (
    ClientInfo,
    History,
    Message,
    Position,
    Publication,
    field,
    info_of,
    publications_of,
)
from .events import Events
from .inbox import Inbox
from .interfaces import Driver, SessionOptions, State
from .outcomes import closed_by
from .session import Session
from .subscription import Subscription

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["LiveConnection"]


class LiveConnection:
    """A client of `Server.live`; `simple_ws.live.connect` creates it.

    It connects again by itself, begins its subscriptions again, and sends what waits
    in its outbox. Every method can be called from any thread, and in signal handlers.
    Callbacks are called in the thread of the client: in them nothing may wait for it,
    so call `enqueue`, `send`, `unsubscribe` and `close` there, and nothing else.

    A forked process cannot use it: it belongs to the parent.
    """

    def __init__(
        self,
        driver: Driver,
        options: SessionOptions,
        *,
        shown: str,
        timeout: float,
        max_queue: int,
        get_token: Callable[[], str] | None = None,
        on_state: Callable[[str, Exception | None], object] | None = None,
    ) -> None:
        self._driver, self._shown = driver, shown
        self._timeout, self._max_queue = timeout, max_queue
        self._tokens: dict[str | None, Callable[..., str]] = {}
        if get_token is not None:
            self._tokens[None] = get_token
        self._subscriptions: dict[str, Subscription] = {}
        self._inbox: Inbox[Publication | Message] = Inbox(driver, self._why)
        listener = Events(self._inbox, max_queue, on_state)
        self._session = Session(options, listener, driver.clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; without an error, wait for what is in the outbox before."""
        try:
            if kind is None and self._session.state is not State.CLOSED:
                self.flush()
        except TimeoutError:
            pass  # those who hold its futures are told
        finally:
            self.close()

    def __iter__(self) -> Iterator[Publication | Message]:
        """Iterate over what `recv` returns until the connection is closed.

        Raises:
            ConnectionClosed: It has ended, and the client does not come back.
        """
        while True:
            try:
                event = self.recv()
            except ConnectionClosed as error:
                if error.cause is CloseCause.LOCAL:
                    return
                raise
            yield event

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state}>"

    # What it is

    @property
    def state(self) -> str:
        """One of "connecting", "connected" and, for good, "closed"."""
        return self._session.state.value

    @property
    def client_id(self) -> str:
        """The id that the server has given to the connection; "" before."""
        return self._session.client

    @property
    def data(self) -> Any:
        """What the server said when it was connected."""
        return self._session.data

    # Subscriptions

    def subscribe(
        self,
        topic: str,
        *,
        recover: bool = False,
        since: Position | tuple[str, int] | None = None,
        data: Any = None,
        token: str = "",
        get_token: Callable[[str], str] | None = None,
        on_gap: Callable[[], object] | None = None,
        on_join: Callable[[ClientInfo], object] | None = None,
        on_leave: Callable[[ClientInfo], object] | None = None,
        max_queue: int | None = None,
        timeout: float | None = None,
    ) -> Subscription:
        """Subscribe to a topic, and wait until that has begun.

        Args:
            topic: that this client is not subscribed to.
            recover: after each loss of the connection, get what was missed.
            since: get what was missed since this position, such as that of the last
                publication before the program was started again.
            data: any JSON for the server.
            token: of the subscription, where the server wants one.
            get_token: returns a token for the topic; called in a thread of its own,
                at first unless there is a `token`, and before one expires.
            on_gap: called when publications were missed for ever.
            on_join: called with who comes into the topic.
            on_leave: called with who leaves it.
            max_queue: publications that wait to be read; None: as for `connect`.
            timeout: seconds; None: as for `connect`.

        Raises:
            LiveError: The server has refused.
            TimeoutError: It has not begun in time, and does not begin any more.
            ConnectionClosed: The connection has ended, and the client does not come
                back.
            TypeError, ValueError: An argument is wrong.
            InvalidState: It is subscribed already; or a callback of this client waits,
                or a forked process.
        """
        check_topic(topic)
        self._driver.check_may_wait()
        queue = self._max_queue
        if max_queue is not None:
            queue = whole(1, "publications")("max_queue", max_queue)
        callbacks = {"on_gap": on_gap, "on_join": on_join, "on_leave": on_leave}
        options = {
            "recover": recover,
            "since": position_of(since),
            "join_leave": on_join is not None or on_leave is not None,
            "data": data,
            "token": token,
            "asks": get_token is not None,
        }
        subscription = Subscription(
            self, self._driver, self._session, topic, queue, callbacks, options
        )
        if self._subscriptions.setdefault(topic, subscription) is not subscription:
            raise InvalidState(f"this client is subscribed to {topic!r} already")
        if get_token is not None:
            self._tokens[topic] = partial(get_token, topic)
        self._driver.run(partial(self._session.subscribe, subscription._room))
        self._wait_for(subscription, self._limit(timeout))
        return subscription

    def _wait_for(self, subscription: Subscription, limit: float) -> None:
        begun = False
        try:
            begun = self._driver.wait(
                lambda: subscription._begun or subscription._over, limit
            )
        finally:
            if not begun:
                subscription.unsubscribe()
        if not begun:
            raise TimeoutError(f"not subscribed within {limit:g} s")
        error = subscription._why()
        if error is not None:
            raise error

    def _forget(self, subscription: Subscription) -> None:
        """It has ended."""
        if self._subscriptions.get(subscription.topic) is subscription:
            del self._subscriptions[subscription.topic]
            self._tokens.pop(subscription.topic, None)

    # Commands

    def publish(
        self,
        topic: str,
        data: Any,
        *,
        key: str | None = None,
        resend: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Publish to a topic, and wait until the server has it.

        If the connection is lost before the answer, it is sent again, with the same
        key: so a topic with history has it once. In a topic without history it may
        come twice.

        Args:
            topic: any name.
            data: any JSON.
            key: at most 128 characters; None: a random one.
            resend: False: raise `ConnectionClosed` rather than send it again.
            timeout: seconds; None: as for `connect`.

        Raises:
            LiveError: The server has refused.
            TimeoutError: There was no answer in time; it may have been published.
            ConnectionClosed: The connection has ended, see there.
            InvalidState: The outbox is full; or a callback of this client waits, or a
                forked process.
            TypeError, ValueError: JSON cannot represent the data.
        """
        params = publish_params(topic, data, key)
        self._ask("publish", params, timeout, again=resend)

    def enqueue(self, topic: str, data: Any, *, key: str | None = None) -> Future[None]:
        """Publish without waiting: it waits in the outbox while there is no connection.

        Publications of one client are sent in the order in which they were made.

        Args:
            topic: any name.
            data: any JSON.
            key: see `publish`.

        Returns:
            A future that is done when the server has it, or has the exception that
            `publish` would raise.

        Raises:
            TypeError, ValueError: JSON cannot represent the data.
        """
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # it cannot be cancelled

        def done(outcome: Any) -> None:
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(None)

        params = publish_params(topic, data, key)
        call = self._session.make_call("publish", params, done, again=True)
        self._add(call)
        return future

    def rpc(
        self, method: str, data: Any = None, *, timeout: float | None = None
    ) -> Any:
        """Call a method of the server; return what it returns.

        Args:
            method: its name.
            data: any JSON.
            timeout: seconds; None: as for `connect`.

        Raises:
            LiveError: The server has refused, or the method has failed.
            TimeoutError: There was no answer in time; it may have been called.
            ConnectionClosed: The connection was lost before the answer: it may have
                been called, and is not called again. The client may connect again, see
                `state`.
            InvalidState: As for `publish`.
            TypeError, ValueError: JSON cannot represent the data.
        """
        result = self._ask("rpc", {"method": method, "data": data}, timeout)
        return result.get("data")

    def history(
        self,
        topic: str,
        limit: int | None = None,
        *,
        since: Position | tuple[str, int] | None = None,
        reverse: bool = False,
        timeout: float | None = None,
    ) -> History:
        """Read what a topic keeps.

        Args:
            topic: a topic with history.
            limit: at most so many; 0 for the position alone; None: all.
            since: those after this position, or before it if `reverse`.
            reverse: the newest first.
            timeout: seconds; None: as for `connect`.

        Raises:
            LiveError: The server has refused; 112: it does not know the position.
            TimeoutError: There was no answer in time.
            ConnectionClosed: The connection has ended, and the client does not come
                back.
            InvalidState: As for `publish`.
            TypeError, ValueError: An argument is wrong.
        """
        check_topic(topic)
        most = -1 if limit is None else whole(0, "publications")("limit", limit)
        begin = position_of(since)
        params = {
            "channel": topic,
            "limit": most,
            "since": None if begin is None else begin._asdict(),
            "reverse": reverse or None,
        }
        result = self._ask("history", params, timeout, again=True)
        epoch = field(result, "epoch", str, "")
        position = Position(epoch, field(result, "offset", int, 0))
        return History(publications_of(topic, epoch, result), position)

    def presence(
        self, topic: str, *, timeout: float | None = None
    ) -> dict[str, ClientInfo]:
        """Who is in a topic, by their `client`.

        Raises:
            LiveError: The server has refused.
            TimeoutError, ConnectionClosed, InvalidState: As for `history`.
        """
        check_topic(topic)
        result = self._ask("presence", {"channel": topic}, timeout, again=True)
        members = field(result, "presence", dict, {})
        return {name: info_of(info) for name, info in members.items()}

    def presence_stats(
        self, topic: str, *, timeout: float | None = None
    ) -> tuple[int, int]:
        """How many clients and users are in a topic.

        Raises:
            LiveError, TimeoutError, ConnectionClosed, InvalidState: As for `presence`.
        """
        check_topic(topic)
        result = self._ask("presence_stats", {"channel": topic}, timeout, again=True)
        clients = field(result, "num_clients", int, 0)
        return clients, field(result, "num_users", int, 0)

    def send(self, data: Any) -> None:
        """Send data to the server (`on_send`); there is no answer.

        It waits in the outbox while there is no connection, and is lost if that is
        lost at the wrong moment, or if the outbox is full.

        Raises:
            TypeError, ValueError: JSON cannot represent the data.
        """
        call = self._session.make_call("send", {"data": data}, lambda outcome: None)
        self._add(call)

    def _ask(
        self,
        method: str,
        params: dict[str, Any],
        timeout: float | None,
        again: bool = False,
    ) -> dict[str, Any]:
        """Send a command, and wait for its result."""
        limit = self._limit(timeout)
        self._driver.check_may_wait()
        outcome: list[Any] = []
        call = self._session.make_call(method, params, outcome.append, again)
        self._add(call)
        try:
            self._driver.wait(lambda: outcome, limit)
        finally:
            if not outcome:
                self._driver.run(partial(self._session.calls.drop, call))
        if not outcome:
            raise TimeoutError(f"no answer to {method} within {limit:g} s")
        if isinstance(outcome[0], ConnectionClosed):
            raise closed_by(outcome[0]) from outcome[0].__cause__
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        result: dict[str, Any] = outcome[0]
        return result

    def _add(self, call: Call) -> None:
        """Have a command sent; it waits until the thread of the client takes it."""
        if self._session.calls.has_room(self._driver.backlog, call):
            self._driver.run(partial(self._session.add, call))

    def _limit(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else duration("timeout", timeout)

    # Events

    def recv(self, timeout: float | None = None) -> Publication | Message:
        """Wait for what comes without a subscription of this client.

        That is a `Publication` of a topic that the server has subscribed it to, or a
        `Message` to it. `max_queue` of them wait; then the oldest are dropped.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: Nothing came in time.
            ConnectionClosed: The connection has ended, and the client does not come
                back; or you have closed it.
            InvalidState: A callback of this client waits, or a forked process.
            TypeError, ValueError: `timeout` is not a number of seconds.
        """
        return self._inbox.take(timeout)

    @property
    def lost(self) -> int:
        """What was dropped because it was not read, see `recv`."""
        return self._inbox.lost

    def _why(self) -> Exception | None:
        """Why it is closed; None: it is not."""
        closed = self._session.state is State.CLOSED
        return closed_by(self._session.error) if closed else None

    # Waiting, and the end

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the server has answered all commands.

        Args:
            timeout: seconds; None: as for `connect`.

        Raises:
            TimeoutError: It has not in time.
            InvalidState: A callback of this client waits, or a forked process.
        """
        limit, session = self._limit(timeout), self._session
        self._driver.check_may_wait()
        begun: list[bool] = []
        self._driver.run(lambda: begun.append(True))
        if not self._driver.wait(lambda: begun and not session.calls, limit):
            raise TimeoutError(f"{len(session.calls)} commands wait after {limit:g} s")

    def close(self) -> None:
        """Close the connection, and wait until it is closed: where the server does not
        read, for `write_timeout` and `close_timeout` at most.

        Threads that wait are woken: their calls raise `ConnectionClosed`, and
        iterations stop. Futures of `enqueue` that are not done have that exception.
        """
        self._driver.run(self._session.close)
        self._driver.end()

    def _begin(self, timeout: float | None) -> None:
        """Connect for the first time.

        Raises:
            Exception: Why the client does not connect.
            ConnectTimeout: It has not connected in time.
        """
        session = self._session
        self._driver.begin(session)
        connected = False
        try:
            connected = self._driver.wait(
                lambda: session.state is not State.CONNECTING, timeout
            )
        finally:
            if not connected or session.state is State.CLOSED:
                self.close()
        if not connected:
            why = session.trouble
            text = f"not connected within {timeout:g} s" + (f"; {why}" if why else "")
            raise ConnectTimeout(self._shown, text) from why
        if session.state is State.CLOSED:
            raise session.error or closed_by(None)

    def _token_for(self, topic: str | None) -> str:
        """Ask the user for a token, in any thread.

        Raises:
            Exception: What the user's function raises.
            TypeError: It has not returned a str.
        """
        token = self._tokens[topic]()
        if not isinstance(token, str):
            raise TypeError(f"get_token must return a str, not {type(token).__name__}")
        return token
