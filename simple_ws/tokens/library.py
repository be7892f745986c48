"""PyJWT, which the extra `jwt` installs; nothing else of the package imports it."""

from __future__ import annotations

from typing import Any

__all__ = ["load_library"]


def load_library() -> Any:
    """The module `jwt`.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import jwt
    except ImportError as error:
        raise ImportError(
            "tokens need PyJWT, the extra jwt: pip install 'pyjwt[crypto]'", name="jwt"
        ) from error
    return jwt
