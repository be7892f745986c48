"""At which paths `live` is served."""

from __future__ import annotations

import pytest
from live_peer import LivePeer, allow

from simple_ws import Server
from simple_ws.live.endpoints import CENTRIFUGO, Endpoints, serve
from simple_ws.live.methods import HOOKS
from simple_ws.testing import TestServer


@pytest.mark.parametrize("path", ["/live", "/live/"])
def test_all_paths_are_below_that_of_live(path: str) -> None:
    assert all(each.startswith("/live/") for each in Endpoints.below(path) if each)
    assert Endpoints.below(path).websocket == "/live/websocket"


@pytest.mark.parametrize("path", ["live", "", "/live?x", "/live/:id"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        Server("127.0.0.1", 0).live(path)


def test_paths_may_be_those_of_centrifugo() -> None:
    server = Server("127.0.0.1", 0)
    hooks = {**dict.fromkeys(HOOKS), "authorize": allow}
    live = serve(server, CENTRIFUGO, hooks=hooks, options={})
    with TestServer(server) as kit:
        peer = LivePeer(kit, "/connection/websocket")
        assert peer.connect()["pong"]
        assert list(live.clients) == [peer.client]
