"""Install pip into the environment that runs this, where there is no pip at all.

Debian's python3 has neither pip nor ensurepip: those are packages of their own. The
wheel of pip that Debian has can be unpacked by anybody and install itself.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "python3-pip-whl"


def main() -> None:
    """Fetch the package, and have the wheel in it install itself."""
    with tempfile.TemporaryDirectory() as folder:
        if not fetch(folder):
            sys.exit(
                "There is no pip here, and none could be fetched: install it "
                "(Debian: apt-get install python3-pip), then try again."
            )
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg", "-x", package, folder], check=True)
        (wheel,) = Path(folder).rglob("pip-*.whl")
        command = [sys.executable, wheel / "pip", "install", "--quiet", "--no-index"]
        subprocess.run([*command, wheel], check=True)


def fetch(folder: str) -> bool:
    """Have the package in a folder; a new machine knows of no packages at first."""
    if quietly("apt-get", "download", PACKAGE, folder=folder):
        return True
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    update = ["apt-get", "update"] if root else ["sudo", "-n", "apt-get", "update"]
    return quietly(*update, folder=folder) and quietly(
        "apt-get", "download", PACKAGE, folder=folder
    )


def quietly(*command: str, folder: str) -> bool:
    """Run a command; whether it was there and did what it should."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    main()
