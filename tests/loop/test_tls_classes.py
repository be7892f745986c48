"""Records of TLS: the two classes are equal, and the right one is chosen."""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
from tls_harness import server_side

from simple_ws import BACKEND, speedups
from simple_ws._fallback import tls as readable
from simple_ws.loop.tls import TLSSocket

METHODS = [
    name
    for name, value in vars(readable.TLSRecords).items()
    if callable(value) and not name.startswith("__")
]


@pytest.fixture
def in_c(extension: ModuleType) -> Any:
    found = extension.tls_records()
    if found is None:
        pytest.skip("the OpenSSL of this Python cannot be called")
    return found


def test_both_have_the_same_methods_and_docstrings(in_c: Any) -> None:
    assert inspect.getdoc(in_c) == inspect.getdoc(readable.TLSRecords)
    for name in METHODS:
        own, twin = getattr(readable.TLSRecords, name), getattr(in_c, name, None)
        if name in {"_take_in", "_decrypt", "_encrypt", "_report", "_write"}:
            continue  # steps of the one in Python
        assert inspect.signature(twin) == inspect.signature(own), name
        if name != "_end":
            assert inspect.getdoc(twin) == inspect.getdoc(own), name


def test_python_of_these_tests_is_served_in_c() -> None:
    if BACKEND == "fallback" or os.environ.get("EXPECT_EXTENSION") != "1":
        pytest.skip("EXPECT_EXTENSION is not 1")
    if os.environ.get("SIMPLE_WS_TLS") == "0":
        pytest.skip("SIMPLE_WS_TLS=0")
    assert speedups.tls_records() is not readable.TLSRecords
    assert issubclass(TLSSocket, speedups.tls_records())


def ask(tls: str, extension: str) -> subprocess.CompletedProcess[str]:
    return run(
        "from simple_ws.loop import tls; print(tls.TLSRecords.__module__)",
        {"SIMPLE_WS_TLS": tls, "SIMPLE_WS_EXTENSION": extension},
    )


def run(code: str, changes: dict[str, str]) -> subprocess.CompletedProcess[str]:
    folder = os.path.dirname(os.path.dirname(os.path.abspath(speedups.__file__)))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": folder, **changes},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(("tls", "extension"), [("0", ""), ("", "0")], ids=str)
def test_python_serves_when_it_is_asked_for(tls: str, extension: str) -> None:
    assert ask(tls, extension).stdout.strip() == "simple_ws._fallback.tls"


def test_wrong_value_is_named() -> None:
    answer = ask("maybe", "0")
    assert "SIMPLE_WS_TLS must be 1, 0 or unset, not 'maybe'" in answer.stderr


def test_missing_one_is_an_error_when_it_must_be_there() -> None:
    answer = ask("1", "0")
    assert "SIMPLE_WS_TLS is 1, but there is none in C" in answer.stderr


#: What is different from an OpenSSL that can be called.
OTHERS = {
    "it is elsewhere": "_ssl.__file__ = '/nowhere/_ssl.so'",
    "it is another library": "import _hashlib; _ssl.__file__ = _hashlib.__file__",
    "it is in the program": "del _ssl.__file__",
    "it is not OpenSSL": "ssl.OPENSSL_VERSION = 'LibreSSL 3.8.2'",
    "it is newer than known": "ssl.OPENSSL_VERSION = 'OpenSSL 4.0.0 14 Apr 2026'",
    "its number differs": "ssl.OPENSSL_VERSION_NUMBER += 1",
    "its objects are made elsewhere": "ssl.SSLContext.wrap_bio = lambda *args: None",
    "its objects are made twice": (
        "once = ssl.SSLContext.wrap_bio\n"
        "ssl.SSLContext.wrap_bio = lambda *args: (once(*args), once(*args))"
    ),
}


@pytest.mark.usefixtures("in_c")
@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_openssl_that_is_not_as_expected_is_not_called(change: str) -> None:
    code = (
        f"import _ssl, ssl\n{change}\n"
        "from simple_ws import _speedups\n"
        "print(_speedups.tls_records())"
    )
    answer = run(code, {"SIMPLE_WS_EXTENSION": "1", "SIMPLE_WS_TLS": ""})
    assert answer.stdout.strip() == "None", answer.stderr


@pytest.mark.usefixtures("in_c")
def test_class_without_init_refuses_everything(in_c: Any) -> None:
    empty = in_c.__new__(in_c)
    with pytest.raises(ConnectionAbortedError, match="no handshake"):
        empty.recv(1)
    empty._shaken = True
    with pytest.raises(ConnectionAbortedError, match="no handshake"):
        empty.send(b"x")
    assert empty._owed == 0
    assert empty._flush() is True
    empty._detach()


def test_class_is_not_initialized_twice(in_c: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        records = in_c(server_side(), ours, 65536)
        with pytest.raises(RuntimeError, match="initialized twice"):
            records.__init__(server_side(), ours, 65536)
