"""The fuzz targets: each states its invariant in its first line, and has its seeds.

A target is created once with both copies of the package, and then called with bytes. It
raises when its invariant does not hold. Past findings are separate tests of their
modules, or rows of `rfc_cases`.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from backends import Copy

__all__ = ["TARGETS", "Target"]

OFFER = "Sec-WebSocket-Extensions: permessage-deflate"
REQUEST = (
    b"GET /chat?x=%20y HTTP/1.1\r\nHost: example.com:80\r\nUpgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Origin: http://a\r\nCookie: a=b; c=d\r\n"
    b"Sec-WebSocket-Protocol: a, b\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: a\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12\r\n\r\n"
)

FIELDS = (
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "Host",
    "Origin",
    "Cookie",
    "Sec-WebSocket-Protocol",
)


class Target:
    """One thing that is fuzzed.

    Args:
        fast, slow: copies of the package, with the extension and without.
    """

    def __init__(self, fast: Copy, slow: Copy) -> None:
        self.copies = (fast, slow)

    def seeds(self) -> Iterator[bytes]:
        """Inputs to begin with."""
        raise NotImplementedError

    def __call__(self, data: bytes) -> None:
        """Raise where the invariant does not hold."""
        raise NotImplementedError

    def both(self, function: Callable[[Copy], Any]) -> Any:
        """What both copies come to, which must be the same."""
        fast, slow = map(function, self.copies)
        assert fast == slow, f"the backends differ:\n{fast!r}\n{slow!r}"
        return fast


def pieces(data: bytes, size: int) -> list[bytes]:
    """Data in pieces of so many bytes; 0: whole."""
    edges = [*range(0, len(data), size or len(data) or 1), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def packed(data: bytes, bits: int = 15) -> bytes:
    stream = zlib.compressobj(wbits=-bits)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def outcome(function: Callable[[], Any], *documented: type[Exception]) -> Any:
    """What a function returns, or which of its documented errors it raises."""
    try:
        return function()
    except documented as error:
        return type(error).__name__, str(error)


def without_secrets(text: str) -> str:
    """The text of an error, which must not have credentials in it."""
    assert "hush" not in text, text
    assert "secret" not in text, text
    return text


class NoErrors(logging.Handler):
    """Errors of ours end in the log: they fail the target."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage()) from (record.exc_info or [None] * 2)[
            1
        ]


class ServerConnection(Target):
    """Both backends report and answer the same, and end with the same close code.

    Input: a byte of flags (1: compression, 2: a wrapped socket), the size of the pieces
    in which the rest is sent (0: whole), then what the client sends.
    """

    def __init__(self, fast: Copy, slow: Copy) -> None:
        super().__init__(fast, slow)
        logging.getLogger("simple_ws").addHandler(NoErrors(logging.ERROR))
        logging.getLogger("simple_ws").propagate = False
        self._servers = {copy: self._serve(copy) for copy in self.copies}

    def _serve(self, copy: Copy) -> Any:
        handler = copy["harness"].Echo(
            max_size=20_000, max_frame_size=4096, write_limit=2**20, ping=False
        )
        return copy["harness"].Driven(handler)

    def seeds(self) -> Iterator[bytes]:
        cases = self.copies[0]["rfc_cases"]
        for case in (*cases.GOOD, *cases.CLOSING, *cases.BAD):
            if len(case.stream) < 10_000:
                stream = cases.stream(case.stream, masked=True)
                yield bytes((len(stream) % 4, len(stream) % 5)) + stream
        for text in (b"Hello", b"", b"x" * 5000, b"\xff"):
            for flags in (1, 3):
                yield bytes((flags, 0)) + cases.frame(0xC1, packed(text))
        parts = cases.frame(0x41, packed(b"Hello")[:3]), cases.frame(0x89, b"between")
        yield b"\1\3" + b"".join(parts) + cases.frame(0x80, packed(b"Hello")[3:])

    def __call__(self, data: bytes) -> None:
        if len(data) > 2:
            self.both(lambda copy: self._verdict(copy, data))

    def _verdict(self, copy: Copy, data: bytes) -> Any:
        driven, harness = self._servers[copy], copy["harness"]
        flags, size = data[0], data[1]
        peer = driven.open(
            "/",
            *([OFFER] if flags & 1 else []),
            wrap=harness.Wrapped if flags & 2 else None,
        )
        output = self._feed(driven, peer, pieces(data[2:], size))
        events = [self._shown(event) for event in driven.handler.events]
        driven.handler.events.clear()
        driven._peers.clear()
        assert not driven.server.clients
        assert "error" not in (name for name, _ in events)
        return events, output

    def _feed(self, driven: Any, peer: Any, parts: list[bytes]) -> bytes:
        output = b""
        try:
            for part in parts:
                peer.write(part)
                driven.turn(3)
                output += peer.read_now()
            peer.end()
        except OSError:
            pass  # the server has closed
        for _ in range(100):
            driven.turn(3)
            output += peer.read_now()
            if not driven.server.clients:
                break
        peer.close()
        driven.turn(3)
        return output

    @staticmethod
    def _shown(event: Any) -> tuple[str, Any]:
        value = event.value
        return event.name, value if isinstance(value, str | bytes) else str(value)


class RequestHead(Target):
    """What the fast reader takes the slow one takes, too, and reads the same in it.

    Fed whole and in pieces (the first byte is their size) the slow one comes to the
    same verdict, and raises nothing but HandshakeError, as the rules of the handshake.
    """

    def seeds(self) -> Iterator[bytes]:
        for size in (0, 1, 7):
            yield bytes((size,)) + REQUEST + b"\x81\x00"
        yield b"\0" + REQUEST.replace(b"GET", b"POST").replace(b"1.1", b"1.0")
        yield b"\0GET / HTTP/1.1\r\nHost: [::1]:80\r\nCookie: \r\n\r\n"
        yield b"\0\r\nGET http://h/ HTTP/2.0\r\nHost:h\r\n\r\n"

    def __call__(self, data: bytes) -> None:
        if data:
            size, head = data[0], data[1:]
            common = self.both(lambda copy: copy["speedups"].read_upgrade(head))
            whole = self.both(lambda copy: self._read(copy, [head]))
            parts = self.both(lambda copy: self._read(copy, pieces(head, size)))
            if common is not None:
                assert whole[0] == "upgrade", (whole, common)
                assert whole[1:] == self._expected(common, head)
            if whole[0] in ("upgrade", "request"):
                assert parts == whole

    @staticmethod
    def _expected(common: Any, head: bytes) -> Any:
        end, target, _, key, protocols, extensions = common
        return target, key, protocols, extensions, head[end:]

    def _read(self, copy: Copy, parts: list[bytes]) -> Any:
        http11, handshake = copy["protocol.http11"], copy["protocol.server_handshake"]
        refusal = copy["errors"].HandshakeError
        reader, request, rest = http11.RequestReader(), None, b""
        try:
            for part in parts:
                if request is not None:
                    rest += part
                else:
                    request = reader.feed(part)
                    rest = reader.rest
            if request is None:
                return ("incomplete",)
        except refusal as error:
            return "refused", error.status, str(error)
        try:
            http11.check_version(request)
            key = handshake.check_upgrade(request)
        except refusal as error:
            asked = request.method, request.target, request.headers.pairs()
            return "request", asked, rest, error.status, str(error)
        fields = request.headers
        extensions = fields.get("Sec-WebSocket-Extensions")
        outcome(lambda: handshake.offered_subprotocols(fields), refusal)
        protocols = fields.get("Sec-WebSocket-Protocol")
        return "upgrade", request.target, key, protocols, extensions, rest


class HTTPBody(Target):
    """A body is read the same at any byte boundary, or refused with HandshakeError.

    Input: the size of the pieces, then the header lines of a request, an empty line,
    and its body.
    """

    def seeds(self) -> Iterator[bytes]:
        chunks = b"5\r\nHello\r\n6;a=b\r\n World\r\n0\r\n"
        for size in (0, 1, 3):
            head = bytes((size,)) + b"Transfer-Encoding: chunked\r\n\r\n"
            yield head + chunks + b"\r\nGET"
            yield head + chunks + b"A: b\r\n\r\n"
            yield bytes((size,)) + b"Content-Length: 5\r\n\r\nHello World"
        yield b"\0Content-Length: 5\r\nContent-Length: 5\r\n\r\nHello"
        yield b"\0Transfer-Encoding: gzip, chunked\r\n\r\n"

    def __call__(self, data: bytes) -> None:
        head, found, body = data[1:].partition(b"\r\n\r\n")
        if not found:
            return
        copy = self.copies[1]
        refusal = copy["errors"].HandshakeError
        reader = copy["protocol.http11"].RequestReader()
        start = b"POST / HTTP/1.1\r\nHost: h\r\n" + (head and head + b"\r\n") + b"\r\n"
        try:
            request = reader.feed(start)
        except refusal:
            return
        if request is None or reader.rest:
            return
        whole = self._read(copy, request, [body])
        assert self._read(copy, request, pieces(body, data[0])) == whole
        assert self._read(copy, request, pieces(body, 1)) == whole

    def _read(self, copy: Copy, request: Any, parts: list[bytes]) -> Any:
        try:
            reader = copy["protocol.http_body"].body_reader(request, 5000)
            if reader is None:
                return "none"
            complete, rest = False, b""
            for part in parts:
                if complete:
                    rest += part
                else:
                    complete = reader.feed(part)
                    rest = reader.rest
            return complete, reader.body, rest
        except copy["errors"].HandshakeError as error:
            return error.status, str(error)


class HeaderFields(Target):
    """Nothing but documented errors comes of any field, address or list in a head.

    A URI that was read and is written again is read as the same, but for credentials.
    """

    def seeds(self) -> Iterator[bytes]:
        yield from (
            b'for="[2001:db8::1]:80";proto=https;host="a:1", for=192.0.2.60',
            b"192.0.2.1, 10.0.0.1:80, unknown, _hidden",
            b'permessage-deflate; client_max_window_bits="10"; a="b\\"c", x',
            b"a=b; c=d; e; =f; a=g",
            b"ws://user:pass@[::1]:8080/path?query#fragment",
            b"wss://ex\xc3\xa4mple.org:443/%zz/\xf0\x9f\x98\x80?a=b&c",
            b"HTTP://Example.com:80/../a",
            b"ws://user:1s,@[::%0]:?/patn",
            b"localhost,.example.com,10.0.0.0/8,[::1],*",
            b"bytes=0-4,-5",
            b"/a/%2f/b//c?x=%ff&y=1",
        )

    def __call__(self, data: bytes) -> None:
        copy, text = self.copies[1], data.decode("latin-1")
        if "\r" not in text and "\n" not in text and "\0" not in text:
            self._fields(copy, text)
        self._addresses(copy, text)
        self._addresses(copy, data.decode("utf-8", "surrogateescape"))

    def _fields(self, copy: Copy, text: str) -> None:
        forwarded, host = copy["server.forwarded"], copy["protocol.host"]
        refusal = copy["errors"].HandshakeError
        value = text.strip(" \t")
        headers = copy["protocol.fields"].Headers([(name, value) for name in FIELDS])
        trusted = forwarded.TrustedProxies(["192.0.2.0/24", "2001:db8::/32"])
        peer = ("192.0.2.1", 1)
        forwarded.client_address(peer, headers, trusted)
        assert forwarded.client_scheme(peer, headers, trusted) in (
            "http",
            "https",
            None,
        )
        forwarded.client_hosts(peer, headers, trusted)
        lines = "".join(f"{name}: {value}\r\n" for name in FIELDS).encode("latin-1")
        request = copy["protocol.request"].Request("GET", "/", (1, 1), lines)
        assert isinstance(dict(request.cookies), dict)
        handshake, deflate = copy["protocol.server_handshake"], copy["deflate"]
        outcome(lambda: handshake.check_origin(request, ("same",), None, []), refusal)
        outcome(lambda: handshake.offered_subprotocols(headers), refusal)
        outcome(lambda: host.check_allowed_host(request, ["h"]), refusal)
        offers = outcome(lambda: deflate.parse_extensions([value]), refusal)
        if isinstance(offers, list):
            agreed = deflate.negotiate(offers, deflate.Deflate())
            assert agreed is None or deflate.parse_extensions([agreed[0]])

    def _addresses(self, copy: Copy, text: str) -> None:
        uris = copy["protocol.uri"]
        uri = outcome(lambda: uris.parse_uri(text), ValueError)
        if isinstance(uri, uris.URI):
            public = replace(uri, user=None, password=None)
            assert uris.parse_uri(str(uri)) == public, str(uri)
            repr(uri), uri.shown, uri.origin, uri.host_and_port, uri.tls_name
            copy["protocol.no_proxy"].is_direct(uri, text)
        base = uris.parse_uri("ws://h/a/b?c")
        outcome(lambda: base.join(text), ValueError)
        copy["protocol.no_proxy"].is_direct(base, text)
        outcome(lambda: copy["protocol.proxy_tunnel"].parse_proxy(text), ValueError)
        uris.redacted(text), uris.excerpt(text)
        if text.isascii() and text.isprintable() and text and " " not in text:
            self._target(copy, f"/{text}")

    def _target(self, copy: Copy, target: str) -> None:
        request = copy["protocol.request"].Request("GET", target, (1, 1), b"")
        request.path, dict(request.query)
        copy["http.routing"].routing_path(request.encoded_path)


class ClientHandshake(Target):
    """An answer opens, redirects or is refused with a documented error, in any pieces.

    Input: the size of the pieces, then the answer, in which %s is the right key.
    """

    def seeds(self) -> Iterator[bytes]:
        for size in (0, 1, 5):
            yield bytes((size,)) + RESPONSE + b"\x81\x00"
        yield b"\0HTTP/1.1 302 Found\r\nLocation: /other?x\r\n\r\n"
        yield b"\0HTTP/1.1 307 x\r\nLocation: ws://[x]/\r\nContent-Length: 3\r\n\r\nabc"
        chunked = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        yield b"\0HTTP/1.1 403 No\r\n" + chunked
        yield b"\0HTTP/1.1 100 Continue\r\n\r\n" + RESPONSE
        yield b"\0HTTP/1.1 200 OK\r\n\r\n"
        yield b"@HTTP/1.1 307 x\r\nLocation: //\xa9\r\n\r\nabcHTTP/1.1 307 x\r\n\r\n"

    def __call__(self, data: bytes) -> None:
        if data:
            whole = self._open(self.copies[1], data[1:], 0)
            assert self._open(self.copies[1], data[1:], data[0]) == whole
            self._tunnel(self.copies[1], pieces(data[1:], data[0]))

    def _open(self, copy: Copy, answer: bytes, size: int) -> Any:
        errors, client = copy["errors"], copy["protocol.client_handshake"]
        uri = copy["protocol.uri"].parse_uri("ws://user:secret@host/path")
        options = copy["client.options"].check_client_options(
            uri, {"subprotocols": ["a", "b"], "headers": {"X-Api-Key": "hush"}}
        )
        opening = client.Opening(uri, options)
        opening.begin()
        opening._key = "dGhlIHNhbXBsZSBub25jZQ=="
        answer = answer.replace(b"%s", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        reached, rest = None, b""
        try:
            for piece in pieces(answer, size):
                if reached is not None:
                    rest += piece
                else:
                    reached = opening.receive(piece)
            if reached is None:
                reached = opening.receive_eof()
        except errors.ConnectError as error:
            text = without_secrets(str(error))
            # A redirect is refused with what has come of its body.
            text = re.sub(r" \(.*?\)(; .*redirect)", r"\1", text)
            return type(error).__name__, text
        if reached is client.Outcome.REDIRECT:
            return str(opening.uri)
        accepted = opening.accepted
        agreed = accepted.subprotocol, str(accepted.agreement)
        return *agreed, accepted.headers.pairs(), accepted.rest + rest

    def _tunnel(self, copy: Copy, parts: list[bytes]) -> None:
        uris = copy["protocol.uri"]
        proxy, uri = uris.parse_uri("ws://u:p@proxy:80"), uris.parse_uri("ws://h/")
        tunnel = copy["protocol.proxy_tunnel"].Tunnel(proxy, uri, None)

        def receive() -> bool:
            return any(tunnel.receive(part) for part in parts) or tunnel.receive_eof()

        outcome(receive, copy["errors"].ProxyError)


class ClientConnection(Target):
    """A client reads the same messages in any pieces, with both backends.

    Input: a byte of flags (1: compression), the size of the pieces, then what the
    server sends.
    """

    def seeds(self) -> Iterator[bytes]:
        cases = self.copies[0]["rfc_cases"]
        for case in (*cases.GOOD, *cases.CLOSING, *cases.BAD):
            if len(case.stream) < 10_000:
                stream = cases.stream(case.stream, masked=False)
                yield bytes((len(stream) % 2, len(stream) % 5)) + stream
        yield b"\1\0" + cases.frame(0xC1, packed(b"Hello"), key=None)
        yield b"\1\2" + cases.frame(0xC2, packed(b"x" * 9000), key=None)

    def __call__(self, data: bytes) -> None:
        if len(data) > 2:
            flags, size, stream = data[0], data[1], data[2:]
            whole = self.both(lambda copy: self._read(copy, flags, [stream]))
            parts = self.both(
                lambda copy: self._read(copy, flags, pieces(stream, size))
            )
            if whole[2][0] == parts[2][0] == 1007:
                # Which is found first, bad deflate or bad UTF-8, depends on the cuts.
                whole, parts = whole[0], parts[0]
            assert parts == whole, f"in pieces of {size}:\n{parts!r}\n{whole!r}"

    def _read(self, copy: Copy, flags: int, parts: list[bytes]) -> Any:
        client = self._connect(copy, flags)
        for part in parts:
            client._feed(part)
            while client._unread:
                client._read_on()
        client._lose("the end", copy["constants"].CloseCause.EOF)
        while client._unread:
            client._read_on()
        output = copy["rfc_cases"].read_frames(b"".join(client.sent), masked=True)
        messages = [message for message, _ in client._inbox]
        end = client.close_code, client.close_reason, str(client.close_cause)
        return messages, output, end

    def _connect(self, copy: Copy, flags: int) -> Any:
        class Client(copy["client.core"].ClientCore):  # type: ignore[misc]
            def _put(self, frame: bytes) -> None:
                self.sent.append(frame)

            _put_pong = _put

        handshake, headers = copy["protocol.client_handshake"], copy["protocol.fields"]
        agreement = copy["rfc_cases"].AGREEMENT if flags & 1 else None
        uri = copy["protocol.uri"].parse_uri("ws://h/")
        given = {"max_size": 20_000, "read_limit": 2**30}
        options = copy["client.options"].check_client_options(uri, given)
        accepted = handshake.Accepted(headers.Headers(), None, agreement, b"")
        client = Client(uri, accepted, options, lambda: 1000.0)
        client.sent = []
        return client


class Inflating(Target):
    """Both inflaters return the same of any stream, or raise the same InvalidData.

    Input: window bits (8 to 15) with 8 for no takeover, the size of the pieces, then
    messages; 0xff 0xfe ends one.
    """

    def seeds(self) -> Iterator[bytes]:
        for bits in (9, 12, 15):
            for size in (0, 1, 50):
                text = packed(b"Hello Hello " * 30, bits)
                for first in (bits - 8, bits):
                    yield bytes((first, size)) + text + b"\xff\xfe" + text
        ended = zlib.compressobj(wbits=-15)
        final = ended.compress(b"final") + ended.flush()
        yield b"\7\0" + final + b"\xff\xfe" + final + b"\0" + b"\xff\xfe"
        yield b"\7\1" + final + packed(b"more") + b"\xff\xfe" + packed(b"again")

    def __call__(self, data: bytes) -> None:
        if len(data) > 2:
            self.both(lambda copy: self._inflate(copy, data))

    def _inflate(self, copy: Copy, data: bytes) -> Any:
        invalid = copy["errors"].InvalidData
        takeover = not data[0] & 8
        inflater = copy["speedups"].Inflater(8 + data[0] % 8, takeover)
        messages: list[Any] = []
        try:
            for message in data[2:].split(b"\xff\xfe"):
                plain = b""
                for piece in pieces(message, data[1]):
                    plain += inflater.feed(piece, 50_000 - len(plain))
                    if len(plain) > 50_000:
                        return [*messages, "too big"]
                inflater.finish()
                messages.append(plain)
        except invalid as error:
            messages.append(str(error))
        return messages


class Codecs(Target):
    """Masking, headers and UTF-8: both backends and the plainest way come to the same.

    Input: the size of the pieces, four bytes of key, then data.
    """

    def seeds(self) -> Iterator[bytes]:
        yield b"\0abcd" + "Zwölf Boxkämpfer €𝄞".encode()
        yield b"\1\0\0\0\0" + b"\x81\xfe\x01\x00" + b"\xed\xa0\x80\xf4\x90"
        yield b"\3abcd" + b"\x81\xff" + bytes(8) + b"x" * 200

    def __call__(self, data: bytes) -> None:
        if len(data) > 5:
            size, key, rest = data[0], data[1:5], data[5:]
            masked = self.both(
                lambda copy: copy["speedups"].apply_mask(rest, key, size)
            )
            assert masked == bytes(
                byte ^ key[(place + size) % 4] for place, byte in enumerate(rest)
            )
            self.both(lambda copy: self._header(copy, rest))
            valid = self.both(lambda copy: self._is_text(copy, pieces(rest, size)))
            assert valid == _is_utf8(rest)

    def _header(self, copy: Copy, data: bytes) -> Any:
        parse, fault = copy["speedups"].parse_header, copy["errors"].ProtocolError
        return outcome(lambda: parse(data, 0, len(data)), fault)

    def _is_text(self, copy: Copy, parts: list[bytes]) -> bool:
        validator = copy["speedups"].Utf8Validator()
        good = all(validator.feed(part) for part in parts)
        return bool(good and validator.finish())


class EngineReplies(Target):
    """Whatever an engine's server sends, cut anywhere, the events are the same.

    The first byte is the size of the pieces. No reader of replies raises.
    """

    def seeds(self) -> Iterator[bytes]:
        hello = b"%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
        message = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nab\r\n"
        subscribed = b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
        for size in (b"\0", b"\1", b"\7"):
            yield size + hello + b":1\r\n" + subscribed + message + b":1\r\n"
            yield size + b"*2\r\n:1\r\n" + message + b"*1\r\n$-1\r\n"
            yield size + b"-NOPERM x\r\n"
            yield size + b"~1\r\n#t\r\n,1.5\r\n(12\r\n=5\r\ntxt:a\r\n!1\r\nx\r\n_\r\n"
            yield size + hello + b":1\r\n" * 3 + self._histories()

    def _histories(self) -> bytes:
        stored = b"*3\r\n$9\r\nab:1:00ff\r\n:0\r\n:2\r\n"
        entry = b":%d\r\n$4\r\n00ff\r\n:1500\r\n$2\r\nxy\r\n"
        page = b"*11\r\n$2\r\nab\r\n:2\r\n:0\r\n" + entry % 1 + entry % 2
        return stored + b"-OOM x\r\n" + page + b"-WRONGTYPE x\r\n"

    def __call__(self, data: bytes) -> None:
        copy, size, replies = self.copies[1], (data or b"\0")[0], data[1:]
        whole = self._events(copy, [replies], "PythonReader")
        assert self._events(copy, pieces(replies, size), "PythonReader") == whole
        if copy["cluster.resp"]._hiredis is not None:
            self._events(copy, pieces(replies, size), "HiredisReader")

    def _events(self, copy: Copy, parts: list[bytes], reader: str) -> list[Any]:
        make = getattr(copy["cluster.resp"], reader)
        engine = copy["cluster.redis_engine"].RedisEngine(
            publish_only=True, reader=make
        )
        engine.connected(0.0)
        engine.subscribe(["c"])
        for _ in range(3):
            engine.publish("c", b"x")
        kept, module = "{sws.k.c}e", copy["cluster.engine"]
        for seq in (1, 2):
            origin = module.Origin(b"somebody", seq, None)
            engine.append(kept, b"x", origin, module.Retention(9, None))
        for _ in range(2):
            engine.read(kept, None, 0, 9)
        events = [event for part in parts for event in engine.receive(part, 0.0)]
        engine.take_output()
        return events


class NatsLines(Target):
    """Whatever a NATS server sends, cut anywhere, the events are the same.

    The first byte is the size of the pieces.
    """

    def seeds(self) -> Iterator[bytes]:
        info = b'INFO {"version":"2.9.10","max_payload":10}\r\n'
        for size in (b"\0", b"\1", b"\7"):
            yield (
                size + info + b"PONG\r\nMSG c 1 2\r\nab\r\nMSG c 1 r 0\r\n\r\nPONG\r\n"
            )
            yield size + info + b"PONG\r\nPING\r\n+OK\r\n" + info + b"-ERR 'x'\r\n"
            refused = b"-ERR 'Permissions Violation for Publish to \"_Yw\"'\r\n"
            yield size + info + b"PONG\r\n" + refused + b"PONG\r\nPONG\r\n"
            yield size + b"INFO x\r\nHMSG c 1 2 3\r\n"

    def __call__(self, data: bytes) -> None:
        size, lines = (data or b"\0")[0], data[1:]
        assert self._events(pieces(lines, size)) == self._events([lines])

    def _events(self, parts: list[bytes]) -> list[Any]:
        engine = self.copies[1]["cluster.nats_engine"].NatsEngine(publish_only=True)
        engine.subscribe(["c"])
        engine.connected(0.0)
        for _ in range(3):
            engine.publish("c", b"x")
        events = [event for part in parts for event in engine.receive(part, 0.0)]
        engine.take_output()
        return events


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


TARGETS: dict[str, type[Target]] = {
    "server": ServerConnection,
    "head": RequestHead,
    "body": HTTPBody,
    "fields": HeaderFields,
    "opening": ClientHandshake,
    "client": ClientConnection,
    "inflater": Inflating,
    "codecs": Codecs,
    "replies": EngineReplies,
    "nats": NatsLines,
}
