"""Build the sdist and, from it, a wheel, and check what an index would get of them.

The finished files lie in `dist/`. Prints the size of the wheel and of the extension.
usage: scripts/check_package.py [--tag v1.2.3] [--no-isolation]

With `--tag`, also what a release needs: the tag, `version` in pyproject.toml and the
first section of CHANGELOG.md agree, the section has a date, and the project has URLs.
With `--no-isolation`, this environment's Cython and setuptools build, which is faster.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
#: Bytes of the extension, compressed as it lies in the wheel.
EXTENSION_LIMIT = 400_000
#: What a wheel has compiled.
EXTENSION_SOURCES = {".pyx", ".pxi", ".h"}
#: What setuptools adds to an sdist.
ADDED = {"PKG-INFO", "setup.cfg"}


def main() -> int:
    """Print what is wrong; the status is 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tag", help="of the release, such as v1.2.3")
    parser.add_argument(
        "--no-isolation", action="store_true", help="build with what is installed"
    )
    arguments = parser.parse_args()
    tag = arguments.tag
    faults = [] if tag is None else not_releasable(tag)
    if not faults:  # building takes most of the time
        run("validate_pyproject", "pyproject.toml")
        sdist, wheel = build(isolated=not arguments.no_isolation)
        run("twine", "check", "--strict", sdist, wheel)
        run("check_wheel_contents", "--toplevel", "simple_ws", wheel)
        faults = wrong_in_sdist(sdist) + wrong_in_wheel(wheel)
    for fault in faults:
        print(f"== {fault}", file=sys.stderr)
    return 1 if faults else 0


def not_releasable(tag: str) -> list[str]:
    """Why a tag must not be published, if there is a reason."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version, faults = project["version"], []
    if tag != f"v{version}":
        faults.append(f"the tag is {tag}, and pyproject.toml has version {version}")
    if not project.get("urls"):
        faults.append("pyproject.toml has no [project.urls] (docs/releasing.md)")
    section = next(line for line in changelog.splitlines() if line.startswith("## "))
    if not re.fullmatch(rf"## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", section):
        faults.append(
            f"CHANGELOG.md begins with {section!r}, not with {version} and its date"
        )
    return faults


def run(module: str, *arguments: str | Path, **environment: str) -> None:
    """Run a tool of this environment, which must succeed."""
    command = [sys.executable, "-m", module, *arguments]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True)


def build(isolated: bool) -> tuple[Path, Path]:
    """The sdist and the wheel, which must have the extension."""
    shutil.rmtree(DIST, ignore_errors=True)
    options = [] if isolated else ["--no-isolation"]
    run("build", *options, "--outdir", DIST, SIMPLE_WS_EXTENSION="1")
    return next(DIST.glob("*.tar.gz")), next(DIST.glob("*.whl"))


def tracked() -> set[str] | None:
    """The files of the checkout, without those for its host; None if git says none."""
    command = ["git", "ls-files", "--cached"]
    try:
        listed = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        print("== contents are not compared: this is no checkout")
        return None
    return {name for name in listed.stdout.splitlines() if not name.startswith(".")}


def wrong_in_sdist(sdist: Path) -> list[str]:
    """What it has too much or too little: it should be the checkout."""
    with tarfile.open(sdist) as archive:
        names = {member.name for member in archive.getmembers() if member.isfile()}
    names = {name.partition("/")[2] for name in names}
    names = {name for name in names - ADDED if ".egg-info/" not in name}
    return differences(sdist, names, tracked())


def wrong_in_wheel(wheel: Path) -> list[str]:
    """What it has too much or too little: the package, compiled, and its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: info for info in archive.infolist()}
    names = {name for name in files if ".dist-info/" not in name}
    built = {name for name in names if name.startswith("simple_ws/_speedups.c")}
    expected = tracked()
    if expected is not None:
        expected = {name for name in expected if is_installed(name)}
    faults = differences(wheel, names - built, expected)
    if len(built) != 1:
        faults.append(f"{wheel.name} has {len(built)} extensions")
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes")
    for info in (files[name] for name in built):
        size = info.compress_size
        print(f"{info.filename}: {info.file_size:,} bytes, {size:,} compressed")
        if size > EXTENSION_LIMIT:
            faults.append(f"{info.filename} has more than {EXTENSION_LIMIT:,} bytes")
    return faults


def is_installed(name: str) -> bool:
    """Whether a file of the checkout belongs into wheels."""
    return (
        name.startswith("simple_ws/")
        and PurePosixPath(name).suffix not in EXTENSION_SOURCES
    )


def differences(file: Path, names: set[str], expected: set[str] | None) -> list[str]:
    """A line for each name that only one of the sets has."""
    if expected is None:
        return []
    return [
        *(f"{file.name} has {name}" for name in sorted(names - expected)),
        *(f"{file.name} lacks {name}" for name in sorted(expected - names)),
    ]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {' '.join(map(str, error.cmd))}")
