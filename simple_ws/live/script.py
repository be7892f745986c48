"""`Script`: our client for browsers, client.js, and its types, as they are served.

Comments and indentation are not sent, but the lines keep their numbers. A page that was
opened before asks whether they have changed, so that a new version of the package is
loaded at once.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from importlib.resources import files

from ..http.etags import names_etag
from ..protocol.fields import Headers
from ..protocol.request import Request
from ..protocol.response import Response

__all__ = ["Script", "client_js", "client_types"]

#: Indentation, and lines that are comments or parts of one: no others begin like that.
_LEFT_OUT = re.compile(r"^ *(?:(?://|/\*|\*).*$)?", re.MULTILINE)
_NOTHING = re.compile(r"; *q=0(?:\.0*)?$")


class Script:
    """A file of the package, sent compressed to those that can read it.

    Args:
        text: what is in it.
        kind: its media type.

    Attributes:
        plain: what is sent to those that cannot read gzip.
        packed: what is sent to the others.
    """

    def __init__(self, text: str, kind: str) -> None:
        plain = text.encode()
        self.plain, self.packed = plain, gzip.compress(plain, 9, mtime=0)
        self._etag = f'"{hashlib.sha256(plain).hexdigest()[:32]}"'
        self._kind = kind

    def __call__(self, request: Request) -> Response:
        """Answer a request for it."""
        headers = [
            # Weak: it is the same for both encodings (RFC 9110 §8.8.3.3).
            ("ETag", f"W/{self._etag}"),
            ("Cache-Control", "no-cache"),
            ("Vary", "Accept-Encoding"),
            # It is no secret; pages of other origins may import it.
            ("Access-Control-Allow-Origin", "*"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if names_etag(request.headers, "If-None-Match", self._etag, weak=True):
            return Response(304, headers=headers)
        headers.append(("Content-Type", f"{self._kind}; charset=utf-8"))
        if not _accepts_gzip(request.headers):
            return Response(200, self.plain, headers)
        headers.append(("Content-Encoding", "gzip"))
        return Response(200, self.packed, headers)


def client_js() -> Script:
    """The client."""
    return Script(_LEFT_OUT.sub("", _read("client.js")), "text/javascript")


def client_types() -> Script:
    """Its types, for TypeScript."""
    return Script(_read("client.d.ts"), "application/typescript")


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _accepts_gzip(headers: Headers) -> bool:
    """RFC 9110 §12.5.3."""
    for coding in headers.tokens("Accept-Encoding"):
        if coding.startswith("gzip") or coding == "*":
            return _NOTHING.search(coding) is None
    return False
