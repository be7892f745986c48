"""`Channels`: what clients may do in which channel, as Centrifugo has it.

    [$] [namespace:] name [#user,user]

Source: centrifugal.dev, "Channels and namespaces" and "Channel permission model".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ...live import LiveError
from ...live.codes import (
    BAD_REQUEST,
    NOT_AVAILABLE,
    UNKNOWN_CHANNEL,
)
from ...live.credentials import user_of
from ...live.flags import Flags
from .keys import ChannelOptions
from .reader import Settings

__all__ = ["Channels"]


class Channels:
    """See the head of the module.

    Args:
        settings: the configuration.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._insecure: bool = settings["client.insecure"]
        self._private: str = settings["channel.private_prefix"]
        self._boundary: str = settings["channel.namespace_boundary"]
        self._users: str = settings["channel.user_boundary"]
        self._separator: str = settings["channel.user_separator"]
        self._max_length: int = settings["channel.max_length"]
        every = (settings.without_namespace, *settings.namespaces.values())
        self._patterns = {
            options.channel_regex: re.compile(options.channel_regex)
            for options in every
            if options.channel_regex
        }

    def patterns(self) -> dict[str, ChannelOptions]:
        """The options by what `Server.topic` takes."""
        found = {"*": self._settings.without_namespace}
        if self._boundary:
            prefixes = ("", self._private) if self._private else ("",)
            for name, options in self._settings.namespaces.items():
                for prefix in prefixes:
                    found[f"{prefix}{name}{self._boundary}*"] = options
        return found

    def personal(self, user: str) -> str | None:
        """The channel that a user is subscribed to by the server, if there is one."""
        key = "client.subscribe_to_user_personal_channel"
        if not self._settings[f"{key}.enabled"] or not user:
            return None
        namespace = self._settings[f"{key}.personal_channel_namespace"]
        prefix = f"{namespace}{self._boundary}" if namespace else ""
        return f"{prefix}{self._users}{user}"

    def options(self, channel: str) -> ChannelOptions:
        """The options of a channel.

        Raises:
            LiveError: There is no such namespace, or the name is not allowed.
        """
        name = channel.removeprefix(self._private) if self._private else channel
        namespace, boundary, rest = (
            name.partition(self._boundary) if self._boundary else ("", "", "")
        )
        options: ChannelOptions | None = self._settings.without_namespace
        if boundary and namespace:
            options = self._settings.namespaces.get(namespace)
        else:
            rest = channel
        if options is None:
            raise LiveError(*UNKNOWN_CHANNEL)
        pattern = self._patterns.get(options.channel_regex)
        allowed = channel.isascii() if pattern is None else pattern.search(rest)
        if not allowed or len(channel) > self._max_length:
            raise LiveError(*BAD_REQUEST)
        return options

    def authorize(self, client: Any, action: str, channel: str) -> bool:
        """Whether a client may do something; see `Server.live`.

        Raises:
            LiveError: It is no question of permission.
        """
        if action == "call":
            raise LiveError(*NOT_AVAILABLE)  # there are no methods here
        options = self.options(channel)
        if action == "subscribe":
            return self._may_subscribe(user_of(client._live), channel, options)
        if action == "presence" and not options.presence:
            raise LiveError(*NOT_AVAILABLE)
        if action == "history" and not options.history_size:
            raise LiveError(*NOT_AVAILABLE)
        inside = channel in client._live.topics
        return self._has_access(client, action, options, inside)

    def granted(self, user: str, channels: Iterable[str]) -> list[str]:
        """Those channels of several to which a user may subscribe.

        Raises:
            LiveError: There is no such namespace, or a name is not allowed.
        """
        return [
            channel
            for channel in channels
            if self._may_subscribe(user, channel, self.options(channel))
        ]

    def _may_subscribe(self, user: str, channel: str, options: ChannelOptions) -> bool:
        if self._private and channel.startswith(self._private):
            return False  # for tokens only
        limited = options.allow_user_limited_channels and self._users in channel
        if limited and self._users and self._is_for(user, channel):
            return True
        if options.allow_subscribe_for_client and not limited:
            return bool(user) or options.allow_subscribe_for_anonymous or self._insecure
        return self._insecure

    def _is_for(self, user: str, channel: str) -> bool:
        names = channel.rpartition(self._users)[2]
        every = names.split(self._separator) if self._separator else [names]
        return bool(user) and user in every

    def _has_access(
        self, client: Any, action: str, options: ChannelOptions, inside: bool
    ) -> bool:
        if self._insecure:
            return True
        if not user_of(client._live) and not getattr(
            options, f"allow_{action}_for_anonymous"
        ):
            return False
        if getattr(options, f"allow_{action}_for_client"):
            return True
        return inside and bool(getattr(options, f"allow_{action}_for_subscriber"))

    def flags(self, client: Any, channel: str, by_server: bool) -> Flags:
        """What a subscription has: for `Live`."""
        try:
            options = self.options(channel)
        except LiveError:  # the server subscribes it to what it likes
            return Flags()
        history = presence = False
        if not by_server:
            history = self._has_access(client, "history", options, True)
            presence = self._has_access(client, "presence", options, True)
        return Flags(
            recoverable=_forced(
                options.force_recovery, options.allow_recovery or history, by_server
            ),
            positioned=_forced(
                options.force_positioning,
                options.allow_positioning or history,
                by_server,
            ),
            join_leave=options.join_leave
            and _forced(options.force_push_join_leave, presence, by_server),
        )


def _forced(forced: bool, allowed: bool, by_server: bool) -> bool | None:
    """True: for all; None: for those who ask for it; False: for none."""
    if forced:
        return True
    return None if allowed and not by_server else False
