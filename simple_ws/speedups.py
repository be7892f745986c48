"""The only place that chooses between the extension and its twin in Python.

The environment variable `SIMPLE_WS_EXTENSION` is read at import: `1` requires the
extension, `0` disables it; if unset, the extension is used if it is available.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

_WANTED = os.environ.get("SIMPLE_WS_EXTENSION", "")
if _WANTED not in {"", "0", "1"}:
    raise ImportError(f"SIMPLE_WS_EXTENSION must be 1, 0 or unset, not {_WANTED!r}")

if TYPE_CHECKING or _WANTED == "0":
    from ._fallback import *
    from ._fallback import BACKEND
    from ._fallback import __all__ as __all__
else:
    try:
        from ._speedups import *
        from ._speedups import BACKEND
        from ._speedups import __all__ as __all__
    except ImportError as error:
        if _WANTED == "1":
            raise ImportError(f"SIMPLE_WS_EXTENSION is 1, but: {error}") from error
        from ._fallback import *
        from ._fallback import BACKEND
        from ._fallback import __all__ as __all__

if TYPE_CHECKING:
    from ._fallback.tls import TLSRecords


def _is_stale(folder: str, extension: str) -> bool:
    """Whether the extension was built from other sources than lie there.

    An installation has no sources, a checkout after `git pull` newer ones: then objects
    in C lack what Python expects of them, and nothing says so.
    """
    if not os.path.exists(os.path.join(folder, "_speedups.pyx")):
        return False
    parts = os.path.join(folder, "_c")
    paths = [os.path.join(folder, "_speedups.pyx")]
    paths += [os.path.join(parts, name) for name in os.listdir(parts)]
    newest = max(os.path.getmtime(path) for path in paths)
    return newest > os.path.getmtime(extension)


if BACKEND == "extension":
    _extension = sys.modules[f"{__package__}._speedups"].__file__
    if _extension and _is_stale(os.path.dirname(__file__), _extension):
        import warnings

        warnings.warn(
            f"{_extension} is older than its sources: build it again with "
            "`python setup.py build_ext --inplace`, or `make test`",
            RuntimeWarning,
            stacklevel=2,
        )


def tls_records() -> type[TLSRecords]:
    """The class for the records of TLS connections: in C where the extension can call
    the OpenSSL of this Python (ADR 49), else in Python.

    A function, because some Pythons have no `ssl`, and most servers do not need it.
    The environment variable `SIMPLE_WS_TLS` is read here: `1` requires the one in C,
    `0` disables it.

    Raises:
        ImportError: `SIMPLE_WS_TLS` has another value, or is 1, and there is none in C.
    """
    wanted = os.environ.get("SIMPLE_WS_TLS", "")
    if wanted not in {"", "0", "1"}:
        raise ImportError(f"SIMPLE_WS_TLS must be 1, 0 or unset, not {wanted!r}")
    found: Any = None
    if BACKEND == "extension" and wanted != "0":
        from . import _speedups

        found = _speedups.tls_records()
    if found is None and wanted == "1":
        raise ImportError("SIMPLE_WS_TLS is 1, but there is none in C here")
    from ._fallback.tls import TLSRecords

    return found or TLSRecords
