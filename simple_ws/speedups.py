"""The one place that chooses between the extension and its twin in Python.

`SIMPLE_WS_EXTENSION` in the environment decides at import: `1` the extension must be
there, `0` it is never used, unset: it is used if it is there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ._fallback_core import ConnectionCore, LoopState

__all__ = [
    "BACKEND",
    "ConnectionCore",
    "Deflater",
    "Inflater",
    "LoopState",
    "Utf8Validator",
    "apply_mask",
    "build_frame",
    "parse_header",
]

_WANTED = os.environ.get("SIMPLE_WS_EXTENSION", "")
if _WANTED not in {"", "0", "1"}:
    raise ImportError(f"SIMPLE_WS_EXTENSION must be 1, 0 or unset, not {_WANTED!r}")

if TYPE_CHECKING or _WANTED == "0":
    from ._fallback import (
        BACKEND,
        Deflater,
        Inflater,
        Utf8Validator,
        apply_mask,
        build_frame,
        parse_header,
    )
else:
    try:
        from ._speedups import (
            BACKEND,
            Deflater,
            Inflater,
            Utf8Validator,
            apply_mask,
            build_frame,
            parse_header,
        )
    except ModuleNotFoundError:
        if _WANTED == "1":
            raise
        from ._fallback import (
            BACKEND,
            Deflater,
            Inflater,
            Utf8Validator,
            apply_mask,
            build_frame,
            parse_header,
        )
