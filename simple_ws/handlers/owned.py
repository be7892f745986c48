"""`Owned`: a handler whose connections each belong to a coroutine (`on_connect`).

The coroutine begins when the connection has opened, and receives what arrives. When it
returns, the connection is closed; `on_close` is called when both have ended. What it
waits for is in `connection.async_client`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..connection.async_client import AsyncClient
from ..connection.client import Client
from ..constants import CloseCause, CloseCode
from ..errors import ConnectionClosed
from ..loop.deferred import Begun, DeferredCancelled, Steps, run_steps
from .handler import BaseHandler
from .pending import PendingCall, PendingCalls, report_failure
from .wrapper import Wrapper

if TYPE_CHECKING:
    from typing import Unpack

    from ..connection.option_types import HandlerOptions
    from ..loop.timers import Timer

__all__ = ["ConnectionHandler", "Owned"]

#: We have ended it: the coroutine may have done that, and be in the middle of its work.
_ENDED_HERE = (CloseCause.LOCAL, CloseCause.HANDLER_ERROR)


class ConnectionHandler(BaseHandler):
    """A handler made from one coroutine function.

    Args:
        function: called with the client; it owns the connection.
        options: of the handler.
    """

    def __init__(
        self, function: Callable[[Any], Any], **options: Unpack[HandlerOptions]
    ) -> None:
        self._give(options)
        self._set(_log_name=getattr(function, "__name__", repr(function)))
        self.on_connect = function  # type: ignore[assignment]

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The function."""
        yield self._log_name, self.on_connect


class _Owner:
    """The coroutine of one connection.

    Attributes:
        ended: what waits for the end of the coroutine.
        cancelled: whether it was cancelled because the client has left.
    """

    def __init__(self) -> None:
        self.ended = Begun()
        self.cancelled = False
        self.call: PendingCall | None = None
        self.timer: Timer | None = None

    def end(self) -> None:
        """The coroutine has ended."""
        self.call = None
        if self.timer is not None:
            self.timer.cancel()
        self.ended.tell(None, None)

    def cancel(self) -> None:
        """The client has left, and the coroutine does not find out by itself."""
        self.cancelled = True
        if self.call is not None:
            self.call.cancel()


class Owned(Wrapper):
    """See the head of the module.

    Args:
        inner: the handler.
        pending: of the server, which runs the coroutines.
    """

    def __init__(self, inner: BaseHandler, pending: PendingCalls) -> None:
        super().__init__(inner)
        self._handler = inner
        self._pending = pending
        self._owners: dict[Client, _Owner] = {}
        pending.on_close.append(self._end_all)

    @property
    def client_class(self) -> Any:
        """The handler's class; `AsyncClient` if it has none of its own."""
        wanted = self._handler.client_class
        return AsyncClient if wanted is Client else wanted

    def on_open(self, client: Client) -> Any:
        """A connection opened: its coroutine begins, after `on_open`."""
        return run_steps(self._open(client))

    def on_message(self, msg: Any, client: Any) -> None:
        """A message was received: the coroutine will receive it."""
        client._inbox.put(msg)

    def on_pong(self, client: Any) -> Any:
        """A pong was received: the coroutine may wait for it."""
        if client._inbox.answers:
            client._inbox.answer(client._pings or (), client._loop.time())
        return super().on_pong(client)

    def on_close(self, client: Client) -> Any:
        """A connection ended: so does its coroutine, and `on_close` follows."""
        return run_steps(self._close(client))

    def _open(self, client: Client) -> Steps:
        yield super().on_open(client)
        if not client.is_open():
            return
        if not isinstance(client, AsyncClient):
            raise TypeError(
                f"client_class of {self._log_name} must make an AsyncClient, which "
                f"on_connect needs, not {client!r}"
            )
        owner = self._owners[client] = _Owner()
        done = partial(self._on_done, client, owner)
        owner.call = self._pending.run(self._own(client), done)

    async def _own(self, client: AsyncClient) -> None:
        from asyncio import current_task

        task = current_task()
        assert task is not None
        task.set_name(f"{self._log_name} {client.id}")
        await self._handler.on_connect(client)

    def _close(self, client: Client) -> Steps:
        owner = self._owners.get(client)
        if owner is not None:
            self._leave(client, owner)
            yield owner.ended
        yield super().on_close(client)

    def _leave(self, client: Any, owner: _Owner) -> None:
        """The client has left: cancel the coroutine, unless it will find out.

        One that receives may be working on a message, and has `close_timeout` for that.
        """
        inbox = client._inbox
        works = inbox.waits or inbox.received or inbox.messages
        if works or client.close_cause in _ENDED_HERE:
            timeout = client._options.close_timeout
            owner.timer = client._loop.call_later(timeout, owner.cancel)
        else:
            owner.cancel()

    def _on_done(
        self, client: AsyncClient, owner: _Owner, value: Any, error: Any
    ) -> None:
        """The coroutine has ended."""
        self._owners.pop(client, None)
        try:
            if error is None:
                client._close(CloseCode.NORMAL, "")
            elif not self._is_expected(client, owner, error):
                report_failure(client, error)
        finally:
            owner.end()

    def _is_expected(
        self, client: AsyncClient, owner: _Owner, error: BaseException
    ) -> bool:
        """Whether it has ended as it should when the client leaves."""
        if isinstance(error, DeferredCancelled):
            return owner.cancelled or self._pending.closing
        return not client.is_open() and _is_only_closed(error)

    def _end_all(self) -> None:
        """The server has ended: `on_close` does not wait any longer."""
        owners, self._owners = self._owners, {}
        for owner in owners.values():
            owner.end()


def _is_only_closed(error: BaseException) -> bool:
    """Whether it says nothing but that the connection has ended."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_only_closed, error.exceptions))
    return isinstance(error, ConnectionClosed)
