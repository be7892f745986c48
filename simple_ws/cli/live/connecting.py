"""Who may connect, as a Centrifugo configuration says: tokens, and who needs none."""

from __future__ import annotations

from typing import Any

from ...live import Connected, ConnectRequest, LiveError
from ...live.codes import Disconnect, DisconnectClient
from ...tokens import Tokens
from ..values import UsageError
from .channels import Channels
from .reader import Settings

__all__ = ["Connecting", "make_tokens"]

_TOKEN = "client.token"
#: The keys of the configuration, and what they are in `Tokens`.
_SECRET, _JWKS = "hmac_secret_key", "jwks_public_endpoint"
_PUBLIC = ("rsa_public_key", "ecdsa_public_key")


def make_tokens(settings: Settings) -> Tokens | None:
    """What verifies tokens; None without a key.

    Raises:
        UsageError: A key is malformed, or stands beside an address of keys; or PyJWT is
            missing.
    """
    names = (_SECRET, *_PUBLIC, _JWKS)
    given = {name: value for name in names if (value := settings[f"{_TOKEN}.{name}"])}
    if not given:
        return None
    if _JWKS in given and len(given) > 1:
        raise UsageError(f"{_TOKEN}: {_JWKS} is without other keys")
    try:
        return Tokens(
            given.get(_SECRET),
            public_key=[given[name] for name in _PUBLIC if name in given] or None,
            jwks_url=given.get(_JWKS),
            allow_short_secret=_SECRET in given,  # it is used by others already
            audience=settings[f"{_TOKEN}.audience"] or None,
            issuer=settings[f"{_TOKEN}.issuer"] or None,
        )
    except ImportError as error:
        raise UsageError(f"{_TOKEN}: {error}") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{_TOKEN}.{'/'.join(given)}: {error}") from None


class Connecting:
    """What `on_connect` of `Server.live` is here.

    Args:
        settings: the configuration.
        channels: what clients may do there.
    """

    def __init__(self, settings: Settings, channels: Channels) -> None:
        self._channels = channels
        without = "client.allow_anonymous_connect_without_token"
        self._without_token: bool = settings["client.insecure"] or settings[without]
        self._header: str = settings["client.user_id_http_header"]
        self._named: bool = settings["client.disallow_anonymous_connection_tokens"]

    def on_connect(self, client: Any, request: ConnectRequest) -> Connected:
        """Let a client in, and subscribe it to its own channel, and to those it wants.

        Raises:
            DisconnectClient: It may not connect.
        """
        if request.claims is None and request.token:  # there is nothing to verify it
            raise DisconnectClient(Disconnect.INVALID_TOKEN)
        user = request.user
        if request.claims is None and self._header:
            user = client.headers.get(self._header, "")
        if request.claims is None and not user and not self._without_token:
            # Centrifugo's answer, which SDKs tell apart from a token that is wrong.
            client._host._log.note_refusal(client.address, "it has no token")
            raise DisconnectClient(Disconnect.BAD_REQUEST)
        if request.claims is not None and not request.user and self._named:
            raise DisconnectClient(Disconnect.PERMISSION_DENIED)
        try:
            topics = self._channels.granted(user, request.topics)
        except LiveError:
            raise DisconnectClient(Disconnect.BAD_REQUEST) from None
        personal = self._channels.personal(user)
        own = () if personal is None else (personal,)
        return Connected(user or None, topics=[*own, *topics])
