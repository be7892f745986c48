"""`make test`, with a script instead of Python that records how it was called.

Also the files that `make wheels` copies for its tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(
        not (ROOT / "Makefile").exists(), reason="no checkout: no Makefile is here"
    ),
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
]

#: Runs no tests; fails in the half that FAILING names.
PYTHON = """#!/bin/sh
echo "ran with SIMPLE_WS_EXTENSION=$SIMPLE_WS_EXTENSION: $*"
echo "bytecode: ${PYTHONDONTWRITEBYTECODE-written} in ${PYTHONPYCACHEPREFIX-the tree}"
case $FAILING in *"$SIMPLE_WS_EXTENSION"*) exit 1;; esac
"""


def inherited() -> dict[str, str]:
    """The environment, but for the `make` that these tests are run by."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS", "ARGS", "SIMPLE_WS", "EXPECT"))
        and name not in {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}
    }


def make_test(
    folder: Path, *, failing: str = "", built: bool = True, **environment: str
) -> tuple[int, list[str]]:
    """The status of `make test`, and what it printed.

    Args:
        folder: for an environment.
        failing: halves that fail, by SIMPLE_WS_EXTENSION: "0", "1", "01".
        built: the extension is there.
        environment: more of it.
    """
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    stamp, extension = folder / ".stamp", folder / "extension.so"
    stamp.touch()
    if built:
        extension.touch()
    done = subprocess.run(
        ["make", "-o", stamp, "test", f"VENV={folder}", f"SPEEDUPS={extension}"],
        cwd=ROOT,
        env={**inherited(), "FAILING": failing or "none", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def halves(lines: list[str]) -> list[str]:
    """Which were run, in order."""
    return [line.partition("=")[2][0] for line in lines if line.startswith("ran with ")]


def results(lines: list[str]) -> list[str]:
    """What is said last of each half."""
    return [
        line.partition(": ")[2]
        for line in lines
        if line.startswith(("== with the extension: ", "== in pure Python: "))
    ]


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ("", ["passed", "passed"]),
        ("1", ["FAILED", "passed"]),
        ("0", ["passed", "FAILED"]),
        ("01", ["FAILED", "FAILED"]),
    ],
)
def test_both_halves_are_run_and_either_may_fail(
    tmp_path: Path, failing: str, said: list[str]
) -> None:
    status, lines = make_test(tmp_path, failing=failing)
    assert halves(lines) == ["1", "0"]
    assert results(lines) == said
    assert (status != 0) is bool(failing)


@pytest.mark.parametrize(("failing", "said"), [("1", "FAILED"), ("0", "passed")])
def test_arguments_are_handed_to_both_halves(
    tmp_path: Path, failing: str, said: str
) -> None:
    status, lines = make_test(tmp_path, failing=failing, ARGS="-k 'a or b'")
    assert halves(lines) == ["1", "0"]
    assert all(line.endswith(" -k a or b") for line in lines if "ran with" in line)
    assert results(lines)[0] == said
    assert status != 0


@pytest.mark.parametrize(
    ("forbidden", "told"),
    [("", "written in the tree"), ("1", "written in {folder}/pycache")],
)
def test_bytecode_is_kept_outside_a_tree_that_may_have_none(
    tmp_path: Path, forbidden: str, told: str
) -> None:
    environment = {"PYTHONDONTWRITEBYTECODE": forbidden} if forbidden else {}
    _, lines = make_test(tmp_path, **environment)
    said = [line for line in lines if line.startswith("bytecode: ")]
    assert said == [f"bytecode: {told.format(folder=tmp_path)}"] * 2


def test_what_is_the_same_in_both_is_run_once(pytester: pytest.Pytester) -> None:
    pytester.copy_example(str(ROOT / "tests" / "conftest.py"))
    pytester.makepyprojecttoml(
        "[tool.pytest.ini_options]\nmarkers = ['one_backend: x']\n"
        f"pythonpath = ['{ROOT / 'tests'}']\n"
    )
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.one_backend\n"
        "def test_once(): pass\n"
        "def test_twice(): pass\n"
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)
    for half, left_out in (("python", 0), ("extension", 1)):
        pytester._monkeypatch.setenv("ONE_BACKEND_HALF", half)
        pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(
            passed=2 - left_out, deselected=left_out
        )


def test_extension_that_is_wanted_and_not_built_is_a_failure(tmp_path: Path) -> None:
    status, lines = make_test(tmp_path, built=False, SIMPLE_WS_EXTENSION="1")
    assert halves(lines) == ["0"]
    first, second = results(lines)
    assert "FAILED: SIMPLE_WS_EXTENSION=1, but the extension is not built" in first
    assert second == "passed"
    assert status != 0


def test_extension_that_cannot_be_built_is_told_at_the_end(tmp_path: Path) -> None:
    status, lines = make_test(tmp_path, built=False)
    assert halves(lines) == ["0"]
    assert results(lines)[0].startswith("NO TESTS: it could not be built. Install")
    assert status == 0


def test_extension_may_be_left_out(tmp_path: Path) -> None:
    status, lines = make_test(tmp_path, SIMPLE_WS_EXTENSION="0")
    assert halves(lines) == ["0"]
    assert results(lines) == ["left out (SIMPLE_WS_EXTENSION=0)", "passed"]
    assert status == 0


def test_wheels_are_tested_with_all_that_tests_may_read() -> None:
    """What a checkout has in its first folder is beside an installed wheel, too."""
    not_there = {"simple_ws", "setup.py", "MANIFEST.in"}
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no checkout, or no git: what belongs to it is not known")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:  # as it is for another user's files
        pytest.skip(f"git does not say what belongs to it: {listed.stderr}")
    tracked = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert set(settings["tool"]["cibuildwheel"]["test-sources"]) == {
        name for name in tracked - not_there if not name.startswith(".")
    }


@pytest.mark.parametrize(
    ("arguments", "program"),
    [([], "ws_example.py"), (["APP=board"], "examples/board/board.py")],
)
def test_make_run_starts_the_drawing_board_or_another_example(
    arguments: list[str], program: str
) -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", "run", "PYTHON=python", *arguments],
        cwd=ROOT,
        env=inherited(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert shown.stdout.splitlines()[-1].split() == ["PYTHONPATH=.", "python", program]
    assert (ROOT / program).is_file()
