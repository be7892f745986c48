"""The npm package `centrifuge` against the server of a Centrifugo configuration, with
each of its transports."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from node_js import NODE, SCRIPTS, needs_node
from programs import Program

from simple_ws.cli.live.reader import read_settings
from simple_ws.cli.live.site import build

pytestmark = needs_node

#: As for the SDK's own development: everything is allowed, and tokens are known, too.
CONFIG = {
    "client": {"insecure": True, "token": {"hmac_secret_key": "secret"}},
    "channel": {
        "without_namespace": {"presence": True},
        "namespaces": [
            {
                "name": "kept",
                "history_size": 10,
                "history_ttl": "300s",
                "force_recovery": True,
                "presence": True,
                "join_leave": True,
            }
        ],
    },
}


TRANSPORTS = [
    "websocket",
    pytest.param("http_stream", marks=pytest.mark.one_backend),
    pytest.param("sse", marks=pytest.mark.one_backend),
]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_applications_do(transport: str) -> None:
    with served() as port:
        said = drive("site.mjs", port, transport)
    assert len(said.splitlines()) == 11


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_races(transport: str) -> None:
    with served(http_api={"insecure": True}) as port:
        drive("races.mjs", port, transport, "1", "1500")


@pytest.mark.one_backend
def test_what_applications_do_where_requests_reach_another_worker(
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    argv = ["simple-ws", "live", "--config", str(config), "--port", "0"]
    source = f"""
import runpy, sys
sys.argv = {[*argv, "--workers", "2"]!r}
runpy.run_module("simple_ws", run_name="__main__")
"""
    with Program(source) as program:
        port = int(program.wait_for(r"listening on .*:(\d+) with 2 workers")[1])
        program.wait_for("worker . serves", 2)
        drive("site.mjs", port, "http_stream")


@contextmanager
def served(**keys: Any) -> Iterator[int]:
    """The port of a server of the configuration."""
    settings = read_settings({**CONFIG, **keys}, {}, {"http_server.port": 0})
    server = build(settings)
    server.start()
    try:
        yield server.port or 0
    finally:
        server.stop(drain=0)


def drive(script: str, port: int, *arguments: str) -> str:
    """What a script says that talks to a server."""
    done = subprocess.run(
        [NODE, str(SCRIPTS / script), str(port), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
