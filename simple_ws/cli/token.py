"""`token`: a token for a client of `Server.live`, to try it out."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

from ..tokens import Tokens
from .values import UsageError

__all__ = ["add_token"]

_VARIABLE = "SIMPLE_WS_TOKEN_SECRET"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_token(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "token",
        help="make a token for a client of Server.live",
        description="Make a token that says who a client of Server.live is, or with "
        "--channel, that it may subscribe there; print the token and nothing else.",
        epilog=f"example: {_VARIABLE}=… simple-ws token --user ann --expires 1h",
    )
    parser.add_argument("--user", default="", help="default: nobody in particular")
    parser.add_argument(
        "--channel", metavar="TOPIC", help="the token of a subscription, for this topic"
    )
    parser.add_argument(
        "--expires",
        type=_lifetime,
        default=3600,
        metavar="TIME",
        help="such as 90s, 10m, 1h, 7d, or never; default: 1h",
    )
    parser.add_argument(
        "--info", type=_json, metavar="JSON", help="what others see of the client"
    )
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument(
        "--secret",
        help="shared with the server, 32 bytes at least; seen by others on this "
        f"machine, so better in the environment: {_VARIABLE}",
    )
    secret.add_argument(
        "--secret-file", type=Path, metavar="FILE", help="holds it, on one line"
    )
    parser.add_argument("--audience", help="whom it is for, the claim aud")
    parser.add_argument("--issuer", help="who makes it, the claim iss")
    parser.add_argument(
        "--allow-short-secret",
        action="store_true",
        help="accept a secret that can be guessed from the token",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    try:
        tokens = Tokens(
            _secret(options),
            audience=options.audience,
            issuer=options.issuer,
            allow_short_secret=options.allow_short_secret,
        )
    except (ImportError, ValueError) as error:
        raise UsageError(str(error)) from None
    given = {"expires_in": options.expires, "info": options.info}
    if options.channel is None:
        print(tokens.connection(options.user, **given))
    else:
        print(tokens.subscription(options.user, options.channel, **given))


def _secret(options: argparse.Namespace) -> str:
    if options.secret is not None:
        return str(options.secret)
    if options.secret_file is not None:
        text: str = options.secret_file.read_text(encoding="utf-8")
        return text.removesuffix("\n").removesuffix("\r")
    if _VARIABLE in os.environ:
        return os.environ[_VARIABLE]
    raise UsageError(f"there is no secret: use --secret-file, or set {_VARIABLE}")


def _lifetime(text: str) -> int | None:
    """Seconds; None: for ever."""
    if text == "never":
        return None
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if not found or not int(found[1]):
        wanted = "a time such as 90s, 10m, 1h, 7d, or never"
        raise argparse.ArgumentTypeError(f"{wanted}, not {text!r}")
    return int(found[1]) * _UNITS[found[2] or "s"]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"JSON, not {text!r}: {error}") from None
