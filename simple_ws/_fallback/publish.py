"""Publishing to topics about which nothing is special; the twin of `_c/publish.pxi`."""

from __future__ import annotations

from collections.abc import Collection
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..constants import Delivered
from .fan_out import fan_out

__all__ = ["PublishCore"]


class PublishCore:
    """Publishes what all receivers get as it is; subclasses do the rest."""

    # Who receives what is published to a topic, as lists that do not change; instead of
    # a topic None: what is broadcast. And who receives what is sent to an identity.
    # Only where nothing else needs a look: no rule, engine, middleware … `_remember`
    # adds entries. Whatever makes one wrong removes it, in the loop's thread.
    _plain: dict[str | None, list[Any]]
    _plain_identities: dict[Any, list[Any]]

    def __init__(self) -> None:
        self._plain = {}
        self._plain_identities = {}

    if TYPE_CHECKING:

        def _publish(
            self,
            topic: str,
            msg: object,
            exclude: Collection[Any],
            local: bool,
            key: str | None,
        ) -> int:
            """`publish`, where something is special."""

        def _send_to_identity(self, client_id: Any, msg: object, local: bool) -> int:
            """`send_to`, where something is special."""

        def _broadcast(self, msg: object, exclude: Collection[Any], local: bool) -> int:
            """`broadcast`, where something is special."""

    def publish(
        self,
        topic: str,
        msg: object,
        exclude: Collection[Any] = (),
        *,
        local: bool = False,
        key: str | None = None,
    ) -> int:
        """Send a message to all subscribers of a topic; return how many accepted it.

        Args:
            topic: any name, even one without subscribers.
            msg: as for `broadcast`, also for the result and the errors raised; it must
                be one that `Client.write_message` takes where the topic has a history.
            exclude: clients that do not get the message, unless they join later with
                `since`.
            local: send it to subscribers of this process alone, and do not keep it in
                the history of the topic.
            key: for a topic with history: if it has a message with this key, nothing is
                published. Such as the number that a browser gives to a message that it
                may send again.

        Returns:
            How many accepted it; with an engine 0, or False where the topic has a
            history, and too much waits for the engine or the server does not run: then
            the message is lost.

        Raises:
            TypeError: The topic is not a str, or the key neither str nor None; or the
                rule of the topic has a function as `latest`, and what it returned is
                not hashable.
            ValueError: There is a key, and the topic has no history; or it is empty, or
                longer than 256 characters.
            Exception: What that function raised; nothing was sent then.
        """
        if key is None and exclude == () and type(topic) is str:
            receivers = _find_plain(self._plain, topic)
            if receivers is not None:
                return Delivered(fan_out(receivers, msg, ()))
        return self._publish(topic, msg, exclude, local, key)

    def broadcast(
        self, msg: object, exclude: Collection[Any] = (), *, local: bool = False
    ) -> int:
        """Send a message to every client; return how many accepted it.

        A callback may return the result without sending a reply (`Delivered`); the same
        is true for `publish`, `deliver` and `send_to`.

        From a thread other than the loop's, the message is queued, and 0 is returned.
        With an engine it goes to the clients of all nodes: here it is sent when it
        comes back from the engine, and 0 is returned, too.

        Args:
            msg: str, bytes, dict …, as for `Client.write_message`; encoded once for
                all.
            exclude: clients that do not get the message.
            local: send it to the clients of this process alone.

        Raises:
            TypeError: The message has a type that `Client.write_message` does not take,
                or `exclude` is not a collection of clients.
            ValueError: Text is not valid Unicode, or JSON cannot represent the message.
            Exception: The first exception of a middleware's `on_send`, raised after the
                message was sent to all other clients.
        """
        if exclude == ():
            receivers = _find_plain(self._plain, None)
            if receivers is not None:
                return Delivered(fan_out(receivers, msg, ()))
        return self._broadcast(msg, exclude, local)

    def send_to(self, client_id: Any, msg: object, *, local: bool = False) -> int:
        """Send a message to all connections of an identity; return how many took it.

        Args:
            client_id: as given to `bind`; it does not need to be online.
            msg: as for `broadcast`, also for the result and the errors raised.
            local: send it to connections of this process alone.

        Raises:
            TypeError: The identity is not hashable; or there is an engine, and it is
                neither str, int, bytes nor UUID.
        """
        if type(client_id) is str or type(client_id) is int:
            receivers = _find_plain(self._plain_identities, client_id)
            if receivers is not None:
                return Delivered(fan_out(receivers, msg, ()))
        return self._send_to_identity(client_id, msg, local)

    def _remember(self, topic: str | None, receivers: list[Any]) -> None:
        """Nothing is special about a topic: publish to these until that changes."""
        _remember(self._plain, topic, receivers)

    def _remember_identity(self, client_id: Any, receivers: list[Any]) -> None:
        """The same of an identity."""
        _remember(self._plain_identities, client_id, receivers)

    def _forget_plain(self) -> None:
        """Something has become special about all of them."""
        self._plain.clear()
        self._plain_identities.clear()


def _find_plain(plain: dict[Any, list[Any]], key: Any) -> list[Any] | None:
    """Who receives what is published; None where `_publish` must have a look."""
    receivers = plain.get(key)
    # All are of one loop; the others' threads may not write.
    if receivers is None or receivers[0]._loop.owner != get_ident():
        return None
    return receivers


def _remember(plain: dict[Any, list[Any]], key: Any, receivers: list[Any]) -> None:
    if receivers and receivers[0]._loop.owner == get_ident():
        plain[key] = receivers
