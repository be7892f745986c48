"""Certificates and keys of a Centrifugo configuration: of files, or as text."""

from __future__ import annotations

import base64
import binascii
import ssl
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..values import UsageError
from .reader import Settings

__all__ = ["tls_options"]

_TLS = "http_server.tls"


def tls_options(settings: Settings) -> dict[str, Any]:
    """The options of a server for TLS; none where it is not enabled.

    Raises:
        UsageError: The certificate or key is missing, or is none.
    """
    if not settings[f"{_TLS}.enabled"]:
        return {}
    files = [
        settings[f"{_TLS}.{name}_file"] or settings[f"{_TLS}.{name}"]
        for name in ("cert_pem", "key_pem")
    ]
    if not all(files):
        raise UsageError(f"{_TLS} needs cert_pem and key_pem")
    texts = [_text(each) for each in files]
    if texts == [None, None]:
        return {"certfile": files[0], "keyfile": files[1]}
    with TemporaryDirectory() as folder:  # only its owner can read it
        for number, text in enumerate(texts):
            if text is not None:
                path = Path(folder, f"{number}.pem")
                path.write_text(text)
                files[number] = str(path)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(*files)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"{_TLS}: {error}") from None
    return {"ssl": context}


def _text(value: str) -> str | None:
    """PEM that stands in the configuration, perhaps in base64; None: it is a path."""
    if "-----BEGIN" in value:
        return value
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded.decode() if decoded.startswith(b"-----BEGIN") else None
