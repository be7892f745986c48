"""The npm package `centrifuge` against the server of a Centrifugo configuration, with
each of its transports."""

from __future__ import annotations

import subprocess

import pytest
from node_js import NODE, SCRIPTS, needs_node

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


@pytest.mark.parametrize(
    "transport",
    [
        "websocket",
        pytest.param("http_stream", marks=pytest.mark.one_backend),
        pytest.param("sse", marks=pytest.mark.one_backend),
    ],
)
def test_what_applications_do(transport: str) -> None:
    settings = read_settings(CONFIG, {}, {"http_server.port": 0})
    server = build(settings)
    server.start()
    try:
        done = subprocess.run(
            [NODE, str(SCRIPTS / "site.mjs"), str(server.port), transport],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        server.stop(drain=0)
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(done.stdout.splitlines()) == 11
