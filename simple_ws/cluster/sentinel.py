"""Connecting to an engine, also to one whose master is known by Redis Sentinel.

    redis+sentinel://host1:26379,host2:26379/service

Each attempt asks the Sentinels, one after the other, and takes the first answer. It may
be old: that the server is a master is checked by the engine (HELLO), again and again.
It blocks. (https://redis.io/docs/latest/develop/reference/sentinel-clients/)
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..text import excerpt
from . import connect as plain
from .engine_address import EngineAddress, is_host
from .resp import ErrorReply, PythonReader, encode_command

__all__ = ["connect", "find_master"]

#: Seconds that one Sentinel may take, so that one that hangs leaves time for others.
_EACH = 1.0


def _never() -> bool:
    return False


def connect(
    address: EngineAddress,
    timeout: float,
    cancelled: Callable[[], bool] = _never,
    on_line: Any = None,
) -> Any:
    """Connect to an engine, or to the master that its Sentinels know; from any thread.

    Args, returns and raises: as `connect.connect`.
    """
    end = time.monotonic() + timeout
    if address.sentinels:
        try:
            address = find_master(address, timeout, cancelled)
        except OSError as error:
            raise plain.named(error, address) from None
    left = max(end - time.monotonic(), 0.001)
    return plain.connect(address, left, cancelled, on_line)


def find_master(
    address: EngineAddress, timeout: float, cancelled: Callable[[], bool] = _never
) -> EngineAddress:
    """The address of the master, with everything else as it is.

    Args:
        address: with `sentinels`; without, it is returned.
        timeout: seconds.
        cancelled: asked some times a second whether to give it up.

    Raises:
        OSError: No Sentinel tells one. Its text is one line with what each of them
            said, without credentials.
    """
    if not address.sentinels:
        return address
    end = time.monotonic() + timeout
    reasons = []
    for host, port in address.sentinels:
        left = end - time.monotonic()
        if left <= 0 or cancelled():
            break
        place = replace(
            _at(address, host, port),
            username=address.sentinel_username,
            password=address.sentinel_password,
            db=0,
        )
        try:
            found = _ask(place, address.service, min(left, _EACH), cancelled)
        except OSError as error:
            text = error.strerror or str(error)
            text = text.removeprefix(f"cannot connect to {place}: ")
            reasons.append(f"{host}:{port}: {text}")
        else:
            return _at(address, *found)
    told = "; ".join(reasons) or f"no answer in {timeout:g} s"
    raise OSError(
        errno.EHOSTUNREACH,
        f"no Sentinel tells the master: {told}",
    )


def _at(address: EngineAddress, host: str, port: int) -> EngineAddress:
    """The same on one server."""
    return replace(
        address,
        scheme=address.scheme.removesuffix("+sentinel"),
        host=host,
        port=port,
        sentinels=(),
        service="",
    )


def _ask(
    place: EngineAddress, service: str, timeout: float, cancelled: Callable[[], bool]
) -> tuple[str, int]:
    end = time.monotonic() + timeout
    commands: list[tuple[bytes, ...]] = [
        (b"SENTINEL", b"get-master-addr-by-name", service.encode())
    ]
    if place.username or place.password:
        user = [place.username.encode()] if place.username else []
        commands.insert(0, (b"AUTH", *user, place.password.encode()))
    sock = plain.connect(place, timeout, cancelled)
    try:
        sock.settimeout(max(end - time.monotonic(), 0.001))
        sock.sendall(b"".join(encode_command(*command) for command in commands))
        return _master_in(_receive(sock, len(commands), end), place, service)
    finally:
        sock.close()


def _receive(sock: Any, count: int, end: float) -> list[Any]:
    """So many replies."""
    reader = PythonReader()
    replies: list[Any] = []
    while len(replies) < count:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "no answer in time")
        sock.settimeout(left)
        try:
            data = sock.recv(65536)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, "no answer in time") from None
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
        replies += [r for r in reader.receive(data) if type(r) is not tuple]
        if reader.problem is not None:
            raise OSError(errno.EPROTO, "what it sends is not RESP")
    return replies


def _master_in(
    replies: list[Any], place: EngineAddress, service: str
) -> tuple[str, int]:
    for reply in replies:
        if isinstance(reply, ErrorReply):
            text = reply.text
            if place.password:
                text = text.replace(place.password, "***")
            raise OSError(errno.EPROTO, excerpt(text))
    found = replies[-1]
    if found is None:
        raise OSError(errno.ENOENT, f"it knows no master {service!r}")
    if isinstance(found, list) and len(found) == 2:
        host, port = (
            each.decode("latin-1") if isinstance(each, bytes) else "" for each in found
        )
        number = int(port) if re.fullmatch("[1-9][0-9]{0,4}", port) else 0
        if is_host(host) and 0 < number < 65536:
            return host, number
    raise OSError(errno.EPROTO, "its answer is no address")
