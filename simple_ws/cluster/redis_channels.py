"""`RedisChannels`: which channels one connection to Redis is subscribed to, sans-I/O.

Commands for channels are sent in batches: a channel costs Redis 2.5 µs then, one by one
13.7 µs. Those that are not confirmed are bounded: answers to more could exceed
`client-output-buffer-limit pubsub`, for which Redis cuts the connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice

from .resp import encode_command

__all__ = ["Change", "RedisChannels", "encode_channel"]

#: Channels whose change is not confirmed, at most.
_WINDOW = 512


class Change:
    """A SUBSCRIBE or UNSUBSCRIBE, answered by a push for each channel."""

    __slots__ = ("_channels", "_kind")

    def __init__(self, kind: bytes, channels: set[bytes]) -> None:
        self._kind = kind
        self._channels = channels

    @property
    def is_done(self) -> bool:
        """Whether all channels were confirmed."""
        return not self._channels

    def confirm(self, kind: bytes, channel: bytes) -> bool:
        """A push has come; return whether it is about one of these channels."""
        if kind != self._kind or channel not in self._channels:
            return False
        self._channels.remove(channel)
        return True


class RedisChannels:
    """See the head of the module.

    Args:
        wanted: what is asked for: names, as they are sent. It is kept, and changed.
        send: sends a command whose answer is for a change.

    Attributes:
        names: by the bytes that are received: all whose messages may come.
    """

    def __init__(
        self, wanted: dict[str, bytes], send: Callable[[bytes, Change], object]
    ) -> None:
        self._wanted, self._send = wanted, send
        self.names = {key: name for name, key in wanted.items()}
        #: Those that the server has, once it has processed the output.
        self._subscribed: set[str] = set()
        self._to_subscribe: dict[str, None] = dict.fromkeys(wanted)
        self._to_unsubscribe: dict[str, None] = {}
        #: UNSUBSCRIBEs that are not confirmed: until the last one messages come back.
        self._leaving: Counter[bytes] = Counter()
        #: Those that were asked for until the beginning, less the confirmed.
        self._initial: set[bytes] = set(self.names)
        self._begun = False
        self._outstanding = 0

    def begin(self) -> None:
        """What is asked for from now on is not of the beginning."""
        self._begun = True

    def add(self, channels: Iterable[str]) -> None:
        """They are wanted."""
        for channel in channels:
            if channel in self._wanted:
                continue
            key = encode_channel(channel)
            self._wanted[channel] = key
            self.names[key] = channel
            if channel in self._to_unsubscribe:
                del self._to_unsubscribe[channel]
            else:
                self._to_subscribe[channel] = None
            if not self._begun:
                self._initial.add(key)

    def discard(self, channels: Iterable[str]) -> None:
        """They are wanted no more."""
        for channel in channels:
            key = self._wanted.pop(channel, None)
            if key is None:
                continue
            self._initial.discard(key)
            if channel in self._to_subscribe:
                del self._to_subscribe[channel]
                self._forget_name(key, channel)
            else:
                self._to_unsubscribe[channel] = None

    def receives(self, channel: str) -> bool:
        """See `Engine.receives`."""
        return channel in self._subscribed and channel in self._wanted

    def must_wait(self, channel: str) -> bool:
        """Whether a channel is wanted, and its command not yet sent."""
        return channel in self._to_subscribe

    def are_complete(self, initial: bool) -> bool:
        """Whether all are there that were asked for: told once for the channels of the
        beginning, since new ones may come all the time; later when nothing is left.

        Args:
            initial: channels of the beginning were missing until now.
        """
        if self._initial:
            return False
        return initial or not (self._outstanding or self._to_subscribe)

    # Commands

    def send(self) -> None:
        """Subscribe and unsubscribe as far as the window allows it."""
        waiting = len(self._to_subscribe) + len(self._to_unsubscribe)
        if not waiting or (self._outstanding and self._outstanding + waiting > _WINDOW):
            return  # a full batch when it is empty, rather than many small ones
        joining = self._take(self._to_subscribe)
        self._subscribed.update(joining)
        self.ask(b"SUBSCRIBE", list(map(encode_channel, joining)))
        leaving = self._take(self._to_unsubscribe)
        self._subscribed.difference_update(leaving)
        keys = list(map(encode_channel, leaving))
        self._leaving.update(keys)
        self.ask(b"UNSUBSCRIBE", keys)

    def _take(self, waiting: dict[str, None]) -> list[str]:
        batch = list(islice(waiting, _WINDOW - self._outstanding))
        for channel in batch:
            del waiting[channel]
        return batch

    def ask(self, command: bytes, keys: list[bytes]) -> None:
        """Send a command for channels, if there are any; also for others than the
        wanted."""
        if keys:
            self._outstanding += len(keys)
            change = Change(command.lower(), set(keys))
            self._send(encode_command(command, *keys), change)

    # Answers

    def confirm(self, change: Change, kind: bytes, key: bytes) -> bool:
        """A push has come; return whether it answers this command."""
        confirmed = change.confirm(kind, key)
        if confirmed:
            self._outstanding -= 1
        return confirmed

    def on_subscribed(self, key: bytes) -> bool:
        """Return whether channels of the beginning were missing until now."""
        initial = bool(self._initial)
        self._initial.discard(key)
        return initial

    def on_unsubscribed(self, key: bytes) -> None:
        """The server will send no more of a channel."""
        self._leaving[key] -= 1
        if not self._leaving[key]:
            del self._leaving[key]
            self._forget_name(key, self.names[key])

    def on_cut_off(self, key: bytes) -> bool:
        """The server took a channel from us; return whether it is to be asked for
        again: without an answer we would be deaf."""
        name = self.names.get(key)
        if name is None or not self.receives(name):
            return False
        self._subscribed.discard(name)
        self._to_subscribe[name] = None
        return True

    def _forget_name(self, key: bytes, channel: str) -> None:
        if channel in self._wanted or channel in self._subscribed:
            return
        if key not in self._leaving:
            del self.names[key]


def encode_channel(channel: str) -> bytes:
    """The name of a channel, as it is sent."""
    return channel.encode("utf-8", "surrogatepass")
