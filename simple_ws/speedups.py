"""The only place that chooses between the extension and its twin in Python.

The environment variable `SIMPLE_WS_EXTENSION` is read at import: `1` requires the
extension, `0` disables it; if unset, the extension is used if it is available.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

_WANTED = os.environ.get("SIMPLE_WS_EXTENSION", "")
if _WANTED not in {"", "0", "1"}:
    raise ImportError(f"SIMPLE_WS_EXTENSION must be 1, 0 or unset, not {_WANTED!r}")

if TYPE_CHECKING or _WANTED == "0":
    from ._fallback import *
    from ._fallback import __all__ as __all__
else:
    try:
        from ._speedups import *
        from ._speedups import __all__ as __all__
    except ImportError as error:
        if _WANTED == "1":
            raise ImportError(f"SIMPLE_WS_EXTENSION is 1, but: {error}") from error
        from ._fallback import *
        from ._fallback import __all__ as __all__
