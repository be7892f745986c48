"""Real peers: `websockets`, `websocket-client` and node's `ws` against our server."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, Recorder, running
from node_js import NODE, SCRIPTS, needs_node

from simple_ws import Deflate, Server

PROSE = "All work and no play makes Jack a dull boy. "
MIB = random.Random(7).randbytes(2**20)
MESSAGES: list[str | bytes] = [
    "text",
    "",
    "\u00e9 \U0001f600",
    b"\x00\x01\xff",
    b"",
    MIB,
    (PROSE * 25_000)[: 2**20],
    *(PROSE[n:] + PROSE * 70 for n in range(20)),
]


class Echo(Recorder):
    """Echoes; "ping me" and "close me" are obeyed."""

    def on_message(self, msg: Any, client: Any) -> Any:
        if msg == "ping me":
            client.ping("from us")
            return None
        if msg == "close me":
            client.close(4002, "from us")
            return None
        return msg


def serve(**options: Any) -> tuple[Echo, Any]:
    handler = Echo(max_size=2**21, write_limit=2**23, **options)
    return handler, running(handler)


def url(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}/peer"


# --- websockets ----------------------------------------------------------------------


class TestWebsockets:
    """The package `websockets`, with every kind of compression it can ask for."""

    @pytest.fixture
    def client(self) -> Any:
        return pytest.importorskip("websockets.sync.client")

    def open(self, client: Any, server: Server, **offer: Any) -> Any:
        from websockets.extensions.permessage_deflate import (
            ClientPerMessageDeflateFactory,
        )

        extensions = [ClientPerMessageDeflateFactory(**offer)] if offer else None
        return client.connect(
            url(server),
            compression=None,
            extensions=extensions,
            max_size=2**21,
            proxy=None,
            open_timeout=DEADLINE,
        )

    @pytest.mark.parametrize(
        "offer",
        [
            {},
            {"client_max_window_bits": True},
            {"server_no_context_takeover": True},
            {"client_no_context_takeover": True},
            {"server_no_context_takeover": True, "client_no_context_takeover": True},
            *({"server_max_window_bits": bits} for bits in range(9, 16)),
            *({"client_max_window_bits": bits} for bits in range(9, 16)),
            {"server_max_window_bits": 8, "client_max_window_bits": 9},
        ],
        ids=lambda offer: " ".join(f"{k}={v}" for k, v in offer.items()) or "plain",
    )
    def test_messages_are_echoed(self, client: Any, offer: dict[str, Any]) -> None:
        _, served = serve()
        with served as server, self.open(client, server, **offer) as ws:
            for message in MESSAGES:
                ws.send(message)
                assert ws.recv(DEADLINE) == message
            agreed = ws.protocol.extensions
            assert len(agreed) == bool(offer)
            (ours,) = server.clients
            assert ours.compressed is bool(offer)

    @pytest.mark.parametrize("bits", range(8, 16))
    def test_our_parameters_are_understood(self, client: Any, bits: int) -> None:
        deflate = Deflate(
            server_max_window_bits=bits,
            client_max_window_bits=max(bits, 9),  # zlib of the peer cannot do 8
            server_no_context_takeover=bits % 2 == 0,
            client_no_context_takeover=bits % 3 == 0,
            mem_level=9,
            level=9,
            threshold=0,
        )
        _, served = serve(compression=deflate)
        with (
            served as server,
            self.open(client, server, client_max_window_bits=True) as ws,
        ):
            for message in MESSAGES:
                ws.send(message)
                assert ws.recv(DEADLINE) == message

    def test_fragments_are_joined(self, client: Any) -> None:
        _, served = serve()
        with (
            served as server,
            self.open(client, server, client_max_window_bits=True) as ws,
        ):
            ws.send(iter(["one ", "two ", "", "three"]))
            assert ws.recv(DEADLINE) == "one two three"
            ws.send(iter([b"\xff", MIB]))
            assert ws.recv(DEADLINE) == b"\xff" + MIB

    def test_pings_pass_both_ways(self, client: Any) -> None:
        handler, served = serve()
        with served as server, self.open(client, server) as ws:
            assert ws.ping(b"from them").wait(DEADLINE)
            assert handler.wait_for("ping") == b"from them"
            ws.send("ping me")
            assert handler.wait_for("pong") == b"from us"
            assert handler.client().latency >= 0

    @pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
    def test_their_close_code_comes_to_us(self, client: Any, code: int) -> None:
        handler, served = serve()
        with served as server, self.open(client, server) as ws:
            ws.close(code, "from them")
            assert handler.wait_for("close") == (code, "from them", "peer")
            assert (ws.close_code, ws.protocol.close_rcvd.code) == (code, code)

    def test_our_close_code_goes_to_them(self, client: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        handler, served = serve()
        with served as server, self.open(client, server) as ws:
            ws.send("close me")
            with pytest.raises(ConnectionClosed):
                ws.recv(DEADLINE)
            assert (ws.close_code, ws.close_reason) == (4002, "from us")
            assert handler.wait_for("close") == (4002, "from us", "local")

    def test_too_big_a_message_is_1009_at_their_end(self, client: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        handler, served = serve()
        with (
            served as server,
            self.open(client, server, client_max_window_bits=True) as ws,
        ):
            # Sending may find out already that we said no.
            with suppress(ConnectionClosed):
                ws.send(b"x" * (2**21 + 1))
            with pytest.raises(ConnectionClosed):
                ws.recv(DEADLINE)
            assert ws.close_code == 1009
            assert "max_size 2,097,152" in ws.close_reason
            assert handler.wait_for("close")[2] == "too_big"


# --- websocket-client ----------------------------------------------------------------


class TestWebsocketClient:
    """The package `websocket-client`, which does not compress."""

    @pytest.fixture
    def module(self) -> Any:
        return pytest.importorskip("websocket")

    @pytest.fixture
    def open(self, module: Any) -> Iterator[Any]:
        sockets = []

        def connect(server: Server, **options: Any) -> Any:
            sockets.append(
                module.create_connection(url(server), timeout=DEADLINE, **options)
            )
            return sockets[-1]

        yield connect
        for sock in sockets:
            sock.shutdown()

    def test_messages_are_echoed(self, module: Any, open: Any) -> None:  # noqa: A002
        _, served = serve()
        with served as server:
            ws = open(server)
            for message in MESSAGES:
                if isinstance(message, str):
                    ws.send(message)
                else:
                    ws.send_binary(message)
                opcode, data = ws.recv_data()
                expected = message.encode() if isinstance(message, str) else message
                assert data == expected
                assert opcode == (1 if isinstance(message, str) else 2)

    def test_subprotocol_and_headers(self, open: Any) -> None:  # noqa: A002
        handler, served = serve(subprotocols=["chat"])
        with served as server:
            ws = open(server, subprotocols=["other", "chat"], header=["X-A: b"])
            assert ws.getsubprotocol() == "chat"
            client = handler.client()
            assert (client.subprotocol, client.headers["x-a"]) == ("chat", "b")

    def test_pings_pass_both_ways(self, module: Any, open: Any) -> None:  # noqa: A002
        handler, served = serve()
        with served as server:
            ws = open(server)
            ws.ping("from them")
            opcode, data = ws.recv_data(control_frame=True)
            assert (opcode, data) == (module.ABNF.OPCODE_PONG, b"from them")
            assert handler.wait_for("ping") == b"from them"
            ws.send("ping me")
            opcode, data = ws.recv_data(control_frame=True)
            assert (opcode, data) == (module.ABNF.OPCODE_PING, b"from us")
            assert handler.wait_for("pong") == b"from us"

    def test_close_codes_go_both_ways(self, module: Any, open: Any) -> None:  # noqa: A002
        handler, served = serve()
        with served as server:
            ws = open(server)
            ws.close(4001, b"from them")
            assert handler.wait_for("close") == (4001, "from them", "peer")
            ws = open(server)
            ws.send("close me")
            opcode, data = ws.recv_data()
            assert opcode == module.ABNF.OPCODE_CLOSE
            assert data == (4002).to_bytes(2, "big") + b"from us"
            assert handler.wait_for("close", 2) == (4002, "from us", "local")


# --- ws, of node ---------------------------------------------------------------------

HERE = Path(__file__).parents[1]


def talk(address: str, options: list[Any], **variables: Any) -> list[dict[str, Any]]:
    """Have node talk to a server, once for each of the options."""
    environment = {k: v for k, v in os.environ.items() if k != "NODE_OPTIONS"}
    environment |= {name: str(value) for name, value in variables.items()}
    script = HERE / "peers" / "ws.mjs"
    done = subprocess.run(
        [NODE, str(script), str(SCRIPTS), address, json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=50,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def expect_good(results: list[dict[str, Any]], handler: Echo) -> None:
    for number, result in enumerate(results):
        assert result["answered"] is True
        assert result["ping"] == "from us"
        # An answer to a close frame is its code alone.
        assert result["ours"] == [4001, ""]
        assert result["theirs"] == [4002, "from us"]
        assert handler.wait_for("close", 2 * number + 1) == (4001, "from node", "peer")
        assert handler.wait_for("close", 2 * number + 2) == (4002, "from us", "local")


@needs_node
def test_node_ws_echoes_whatever_it_asks_for() -> None:
    options: list[Any] = [
        False,
        True,
        {"threshold": 0},
        {"serverNoContextTakeover": True},
        {"clientNoContextTakeover": True},
        {"serverNoContextTakeover": True, "clientNoContextTakeover": True},
        *({"serverMaxWindowBits": bits} for bits in range(9, 16)),
        *({"clientMaxWindowBits": bits} for bits in range(9, 16)),
    ]
    handler, served = serve()
    with served as server:
        results = talk(url(server), options)
        assert len(results) == len(options)
        expect_good(results, handler)
        assert results[0]["extensions"] == ""
        assert all("deflate" in result["extensions"] for result in results[1:])


@needs_node
@pytest.mark.parametrize("bits", [8, 9, 12, 15])
def test_node_ws_understands_our_parameters(bits: int) -> None:
    deflate = Deflate(
        server_max_window_bits=bits,
        client_max_window_bits=max(bits, 9),
        server_no_context_takeover=bits == 9,
        client_no_context_takeover=bits == 12,
        mem_level=9,
        threshold=0,
    )
    handler, served = serve(compression=deflate)
    with served as server:
        expect_good(talk(url(server), [True, {"threshold": 0}]), handler)
