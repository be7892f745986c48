"""Who may connect, as a Centrifugo configuration says: tokens, and who needs none."""

from __future__ import annotations

from typing import Any

from ...live import Connected, ConnectRequest, LiveError
from ...live.codes import UNAUTHORIZED, Disconnect, DisconnectClient
from ...tokens import Tokens
from ..values import UsageError
from .channels import Channels
from .reader import Settings

__all__ = ["Connecting", "make_tokens"]

_TOKEN = "client.token"
#: The keys of the configuration, and what they are in `Tokens`.
_KEYS = {
    "hmac_secret_key": "secret",
    "rsa_public_key": "public_key",
    "ecdsa_public_key": "public_key",
    "jwks_public_endpoint": "jwks_url",
}


def make_tokens(settings: Settings) -> Tokens | None:
    """What verifies tokens; None without a key.

    Raises:
        UsageError: A key is malformed, or there are several; or PyJWT is missing.
    """
    given = {name: value for name in _KEYS if (value := settings[f"{_TOKEN}.{name}"])}
    if not given:
        return None
    if len(given) > 1:
        raise UsageError(f"{_TOKEN}: there can be one of {', '.join(given)}")
    ((name, value),) = given.items()
    options: dict[str, Any] = {_KEYS[name]: value}
    if name == "hmac_secret_key":
        options["allow_short_secret"] = True  # it is used by others already
    for claim in ("audience", "issuer"):
        options[claim] = settings[f"{_TOKEN}.{claim}"] or None
    try:
        return Tokens(**options)
    except ImportError as error:
        raise UsageError(f"{_TOKEN}: {error}") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{_TOKEN}.{name}: {error}") from None


class Connecting:
    """What `on_connect` of `Server.live` is here.

    Args:
        settings: the configuration.
        channels: what clients may do there.
    """

    def __init__(self, settings: Settings, channels: Channels) -> None:
        self._channels = channels
        without = "client.allow_anonymous_connect_without_token"
        #: Clients without a token may connect.
        self.allow_anonymous: bool = settings["client.insecure"] or settings[without]
        self._named: bool = settings["client.disallow_anonymous_connection_tokens"]

    def on_connect(self, client: Any, request: ConnectRequest) -> Connected:
        """Let a client in, and subscribe it to its own channel, and to those it wants.

        Raises:
            LiveError, DisconnectClient: It may not connect.
        """
        if request.claims is None and request.token:  # there is nothing to verify it
            raise DisconnectClient(Disconnect.INVALID_TOKEN)
        if request.claims is None and not self.allow_anonymous:
            raise LiveError(*UNAUTHORIZED)
        if request.claims is not None and not request.user and self._named:
            raise DisconnectClient(Disconnect.PERMISSION_DENIED)
        try:
            topics = self._channels.granted(request.user, request.topics)
        except LiveError:
            raise DisconnectClient(Disconnect.BAD_REQUEST) from None
        personal = self._channels.personal(request.user)
        own = () if personal is None else (personal,)
        return Connected(topics=[*own, *topics])
