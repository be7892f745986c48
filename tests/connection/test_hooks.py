"""The hooks of the byte path are declared once, and implemented by one class."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import simple_ws
from simple_ws import Client, _fallback
from simple_ws._fallback.hooks import ConnectionHooks
from simple_ws.speedups import ConnectionCore

HOOKS = sorted(
    name
    for name, value in vars(ConnectionHooks).items()
    if inspect.isfunction(value) and value.__doc__
)
PACKAGE = Path(simple_ws.__file__).parent


def test_client_is_the_core_and_one_class() -> None:
    assert Client.__bases__ == (ConnectionCore,)


@pytest.mark.parametrize("name", HOOKS)
def test_hook_is_answered_in_one_class(name: str) -> None:
    assert name in vars(Client)
    assert not hasattr(ConnectionCore, name)
    answer, asked = getattr(Client, name), getattr(ConnectionHooks, name)
    assert inspect.signature(answer) == inspect.signature(asked)


def asked_for(path: str) -> set[str]:
    """What a backend calls of itself and does not have."""
    source = (PACKAGE / path).read_text(encoding="utf-8")
    called = set(re.findall(r"\bself\.(_\w+)\(", source))
    own = re.findall(r"\bdef (_\w+)\(|\bself\.(_\w+)(?:: .*)? = ", source)
    called -= {name for pair in own for name in pair}
    return {
        name
        for name in called
        if not hasattr(ConnectionCore, name)
        and not hasattr(_fallback.ConnectionCore, name)
    }


@pytest.mark.skipif(
    not (PACKAGE / "_c").exists(), reason="no checkout: a wheel has no sources in C"
)
def test_backends_ask_for_what_is_declared() -> None:
    in_python = asked_for("_fallback/connection.py")
    in_c = asked_for("_c/connection.pxi")
    assert in_python | in_c == set(HOOKS)
    # In Python `protocol` finds the faults that C finds by itself.
    assert in_c - in_python == {"_on_fault"}
