"""Pack the examples with all that they need, for those who have no checkout.

`make docs` puts the archive beside the site's page with the examples.
usage: scripts/pack_examples.py FILE.zip
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pack(archive: Path) -> None:
    """Write the archive."""
    files = [ROOT / "ws_example.py", ROOT / "index.html", ROOT / "LICENSE"]
    files += (path for path in sorted((ROOT / "examples").rglob("*")) if path.is_file())
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in files:
            if "__pycache__" not in path.parts:
                packed.write(path, Path("simple_ws-examples") / path.relative_to(ROOT))


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
