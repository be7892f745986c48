"""The command `asgi`, in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import DEADLINE

import simple_ws

APP = """
import asyncio, os, sys

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if os.environ.get("FAIL"):
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        os.write(1, b"shut down\\n")
        await send({"type": "lifespan.shutdown.complete"})
        return
    loop = type(asyncio.get_running_loop()).__module__
    said = f"{scope['root_path']}{scope['path']} {loop} {os.getpid()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})

def make():
    return app

number = 3
"""


@contextmanager
def program(
    folder: Path, *arguments: str, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    (folder / "main.py").write_text(APP)
    root = Path(simple_ws.__file__).parent.parent
    child = subprocess.Popen(
        [sys.executable, "-m", "simple_ws", "asgi", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def address(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        return str(answer.read().decode())


def end(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    child.send_signal(signal.SIGTERM)
    said, errors = child.communicate(timeout=DEADLINE)
    return child.returncode, said, errors


def test_application_is_served_and_shut_down(tmp_path: Path) -> None:
    options = ("--port", "0", "--loop", "asyncio", "--root-path", "/v1")
    with program(tmp_path, "main:app", *options) as child:
        url = address(child)
        assert url.startswith("http://127.0.0.1:")
        assert read(f"{url}page").startswith("/v1/v1/page asyncio.")
        code, said, errors = end(child)
        assert (code, said) == (0, "shut down\n"), errors


def test_requests_are_logged_where_that_is_asked_for(tmp_path: Path) -> None:
    with program(tmp_path, "main:app", "--port", "0", "--access-log") as child:
        read(f"{address(child)}page?token=secret")
        _, _, errors = end(child)
        assert '127.0.0.1 "GET /page" 200 ' in errors
        assert "secret" not in errors


def test_each_worker_has_an_application(tmp_path: Path) -> None:
    options = ("--factory", "--workers", "2", "--port", "0", "--log-level", "error")
    with program(tmp_path, "main:make", *options) as child:
        url = address(child)
        assert "/ " in read(url)
        code, said, errors = end(child)
        assert (code, said) == (0, "shut down\n" * 2), errors


@pytest.mark.parametrize("workers", ["1", "2"])
def test_application_that_cannot_start_ends_the_program(
    tmp_path: Path, workers: str
) -> None:
    options = ("--port", "0", "--workers", workers)
    with program(tmp_path, "main:app", *options, FAIL="1") as child:
        said, errors = child.communicate(timeout=DEADLINE)
        assert child.returncode == (1 if workers == "1" else 3)
        assert said == ""
        assert "the application app failed to start: no database" in errors
        assert "Traceback" not in errors


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["main:number"], 1, "main:number: app must be a function of (scope"),
        (["main:number", "--factory"], 2, "cannot be called: omit --factory"),
        (["main:app", "--root-path", "v1"], 2, "root_path must begin with '/'"),
        (["main:app", "--keyfile", "x"], 2, "--keyfile needs --certfile"),
        (["nothing:app"], 2, "there is no module 'nothing' here"),
    ],
)
def test_wrong_arguments_are_told(
    tmp_path: Path, arguments: list[str], code: int, text: str
) -> None:
    with program(tmp_path, *arguments) as child:
        _, errors = child.communicate(timeout=DEADLINE)
        assert child.returncode == code
        assert text in errors
