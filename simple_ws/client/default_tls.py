"""The default TLS context of the clients.

Creating it reads the system's certificates, which takes 40 to 120 ms: it is created
once, and for asyncio in a thread.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["default_context"]

_MAKING = threading.Lock()


def default_context() -> SSLContext:
    """The context that trusts the system's certificate authorities; always the same.

    A new one is created when `SSL_CERT_FILE` or `SSL_CERT_DIR` have changed. It does
    not know authorities added to the system later. Any thread may call this.
    """
    with _MAKING:  # of several concurrent callers only one reads the certificates
        return _make(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=4)
def _make(file: str | None, folder: str | None) -> SSLContext:
    """A context for these variables, which OpenSSL reads itself."""
    import ssl  # some builds of Python lack it

    return ssl.create_default_context()
