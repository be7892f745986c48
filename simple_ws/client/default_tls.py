"""The TLS context of clients that were given none.

To make one reads the certificates of the system, which takes 40 to 120 ms: it is made
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
    """The context that checks certificates by what the system trusts; always the same.

    Another one is made when `SSL_CERT_FILE` or `SSL_CERT_DIR` have changed. Authorities
    that the system learns of later are not known to it. Any thread may call this.
    """
    with _MAKING:  # of many that begin at the same time one reads the certificates
        return _make(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=4)
def _make(file: str | None, folder: str | None) -> SSLContext:
    """A context for these variables, which OpenSSL reads by itself."""
    import ssl  # some builds of Python have none

    return ssl.create_default_context()
