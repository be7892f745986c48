"""The names on `Server`: public and documented, or with an underscore.

Users subclass `Server` and set attributes on it, so every name of the library without a
leading underscore is a promise.
"""

from __future__ import annotations

import inspect
import re

import pytest

from simple_ws import Server

#: All that `Server` promises; a new name is added here and to its documentation.
PROMISED = """
allow_new_connections asgi attach bind broadcast call_at call_later clients cluster
collector count dashboard deliver deny_new_connections engine every figures fileno
history host http is_online listen live members metrics mount on_engine on_worker_start
on_worker_stop online options poll port present proxies publish reactor route run
run_in_thread send_to serve_async start static stats stop subscribe time topic
unsubscribe use wsgi
"""

SERVER = Server()
PUBLIC = sorted(
    name for name in {*dir(Server), *vars(SERVER)} if not name.startswith("_")
)


def documented_attributes() -> set[str]:
    """Names that the `Attributes:` section of a class in the MRO lists."""
    found: set[str] = set()
    for owner in Server.__mro__:
        _, _, section = (inspect.getdoc(owner) or "").partition("Attributes:\n")
        section = section.partition("\n\n")[0]
        for line in re.findall(r"^    (\w[\w, ]*):", section, re.MULTILINE):
            found.update(name.strip() for name in line.split(","))
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    if callable(getattr(SERVER, name)):
        assert inspect.getdoc(getattr(Server, name))
    else:
        assert name in documented_attributes()


def test_public_names_are_the_promised_ones() -> None:
    assert PUBLIC == PROMISED.split()


def test_documented_attributes_exist() -> None:
    assert documented_attributes() <= set(PUBLIC)
