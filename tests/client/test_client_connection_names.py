"""Connections of the clients: names are documented, private, or the user's."""

from __future__ import annotations

import asyncio
import re

import pytest

from simple_ws import aio, client


def documented(cls: type) -> set[str]:
    """Members with a docstring, and the attributes in the docstrings."""
    shown: set[str] = set()
    for base in cls.__mro__[:-1]:
        text = (base.__doc__ or "").partition("Attributes:")[2]
        listed = re.findall(r"^ +(\w[\w, ]*):", text, re.MULTILINE)
        shown |= {name for names in listed for name in names.split(", ")}
        shown |= {
            name
            for name, member in vars(base).items()
            if (callable(member) or isinstance(member, property)) and member.__doc__
        }
    return shown


@pytest.mark.parametrize("cls", [client.Connection, aio.Connection])
def test_public_names_are_documented(cls: type) -> None:
    public = {name for name in dir(cls) if not name.startswith("_")}
    assert public - documented(cls) == set()


def test_what_asyncio_calls_is_not_on_the_connection() -> None:
    called = {name for name in dir(asyncio.Protocol) if not name.startswith("_")}
    assert called & set(dir(aio.Connection)) == set()
