"""Entity tags in conditions of a request (RFC 9110 §8.8.3 and §13.1)."""

from __future__ import annotations

import re

from ..protocol.fields import Headers

__all__ = ["names_etag"]

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


def names_etag(headers: Headers, name: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags has this one, or "*" (RFC 9110 §8.8.3.2).

    Args:
        headers: of the request.
        name: of the field, such as "If-None-Match".
        etag: with its quotes, without `W/`.
        weak: tags in the list match whether they are weak or not.
    """
    value = ",".join(headers.get_all(name))
    if value.strip() == "*":
        return True
    given = _ETAG.findall(value)
    return etag in ([tag.removeprefix("W/") for tag in given] if weak else given)
