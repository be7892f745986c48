"""The package simple_ws 0.3 of another project, which is imported by the same name.

Installed together, each overwrites files of the other: whichever came last has
`__init__.py`, and to uninstall one breaks the other.
"""

from __future__ import annotations

import os
import sys
import warnings

__all__ = ["DISTRIBUTION", "refuse_older", "warn_of_older"]

#: What is installed by; the import name is `simple_ws`.
DISTRIBUTION = "simple-ws-server"

#: The only file that the older package has, and this one has not.
_ITS_FILE = "WebSocket.py"

_HINT = (
    "another project's package simple_ws (0.3) is installed in the same folder: run "
    f"`pip uninstall simple_ws {DISTRIBUTION}`, then install {DISTRIBUTION} again"
)


def warn_of_older(folder: str) -> None:
    """Warn once (`RuntimeWarning`) if the older package is in this folder as well."""
    if os.path.exists(os.path.join(folder, _ITS_FILE)):
        warnings.warn(_HINT, RuntimeWarning, stacklevel=3)


def refuse_older() -> None:
    """End the program if the older package was installed last, over this one."""
    if not hasattr(sys.modules["simple_ws"], "BACKEND"):
        raise SystemExit(f"simple-ws: {_HINT}")
