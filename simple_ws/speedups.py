"""The one place that chooses between the extension and its twin in Python.

`SIMPLE_WS_EXTENSION` in the environment decides at import: `1` the extension must be
there, `0` it is never used, unset: it is used if it is there.
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
