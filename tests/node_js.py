"""Node, for tests that run JavaScript there; `make` installs what they import.

Where Node is missing they are skipped, except with EXPECT_NODE=1, as in `.ci/run`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

__all__ = ["NODE", "PACKAGES", "SCRIPTS", "needs_node"]

#: The folder with the scripts, and with package.json.
SCRIPTS = Path(__file__).parent / "live"
#: What npm has installed.
PACKAGES = SCRIPTS / "node_modules"
NODE = shutil.which("node") or "node"

needs_node = pytest.mark.skipif(
    not (PACKAGES / ".stamp").exists() and os.environ.get("EXPECT_NODE") != "1",
    reason="needs Node and npm packages: make tests/live/node_modules/.stamp",
)
