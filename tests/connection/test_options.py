"""`Options`: the defaults of the contract, and those of a user over them."""

from __future__ import annotations

import pytest

from simple_ws.connection.option_checks import check_options
from simple_ws.connection.options import Options
from simple_ws.deflate import Deflate

pytestmark = pytest.mark.one_backend

#: As docs/reference/options.md has them.
DEFAULTS = {
    "ping": True,
    "ping_interval": 5,
    "ping_timeout": 20,
    "compression": Deflate(),
    "max_frame_size": 8192,
    "buffer_size": 4096,
    "max_size": 1024 * 1024,
    "write_limit": 1024 * 1024,
    "slow_consumer": "close",
    "max_connections": None,
    "open_timeout": 10,
    "close_timeout": 1,
    "idle_timeout": None,
    "origins": None,
    "subprotocols": (),
    "backlog": 1024,
    "reuse_port": False,
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_contract(name: str) -> None:
    assert getattr(Options(), name) == DEFAULTS[name]


def test_options_are_merged_over_their_defaults() -> None:
    merged = Options().merged(check_options({"ping": False, "max_size": 5}))
    assert (merged.ping, merged.max_size, merged.backlog) == (False, 5, 1024)
    assert merged.merged({"max_size": 6}) == Options(ping=False, max_size=6)
    with pytest.raises(AttributeError):
        merged.ping = True  # type: ignore[misc]


def test_representation_has_no_password() -> None:
    options = Options(engine="redis://:secret@host", engine_secret=b"secret")
    assert "ping_interval=5.0" in repr(options)
    assert "secret" not in repr(options)
