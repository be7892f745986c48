"""What `make cross` does around the compiler; nothing is downloaded or compiled."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from blocks import ROOT

SCRIPT = ROOT / "scripts" / "cross_compile.py"

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(not SCRIPT.exists(), reason="no checkout"),
]


@pytest.fixture
def cross(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, with everything there that would be downloaded."""
    spec = importlib.util.spec_from_file_location("cross_compile", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cross_compile", module)  # for its dataclass
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "download", lambda: None)
    monkeypatch.setattr(module, "KEPT", tmp_path)
    return module


def run(
    cross: ModuleType, monkeypatch: pytest.MonkeyPatch, *targets: str
) -> int | str | None:
    """Its status, or what it refuses with."""
    monkeypatch.setattr(sys, "argv", ["cross_compile.py", *targets])
    try:
        status: int = cross.main()
    except SystemExit as error:
        return error.code
    return status


def test_every_target_is_compiled_whatever_becomes_of_the_others(
    cross: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def build(target: object, folder: Path) -> Path:
        if folder.name == "musllinux-x86_64":
            raise subprocess.CalledProcessError(1, ["zig", "cc"])
        return folder / "extension"

    def examine(target: object, extension: Path) -> list[str]:
        wrong = extension.parent.name == "macos-arm64"
        return ["needs libfoo.so, which wheels must not"] if wrong else []

    monkeypatch.setattr(cross, "build", build)
    monkeypatch.setattr(cross, "examine", examine)
    assert run(cross, monkeypatch) == 1
    said = capsys.readouterr().out.splitlines()
    results = [line for line in said if line.startswith("== ")]
    assert len(results) == len(cross.TARGETS) + 1
    assert sum(" ok, " in line for line in results) == len(cross.TARGETS) - 2
    assert results[-1] == "== failed: musllinux-x86_64, macos-arm64"
    assert "musllinux-x86_64: failed: zig cc" in said
    assert run(cross, monkeypatch, "win-amd64") == 0


def test_where_nothing_can_be_downloaded_it_is_left_out(
    cross: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def download() -> None:
        raise cross.NotToBeHad("pip cannot install ziglang")

    monkeypatch.setattr(cross, "download", download)
    assert run(cross, monkeypatch, "win-amd64") == 0
    said = capsys.readouterr().out
    assert said == "== cross left out: pip cannot install ziglang\n"


def test_an_unknown_target_is_refused(
    cross: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = str(run(cross, monkeypatch, "win-amd64", "amiga"))
    assert refused.startswith("no target: amiga; there are win-amd64, ")


def test_the_import_library_has_what_the_headers_export(
    cross: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "cpython").mkdir()
    (tmp_path / "object.h").write_text(
        """PyAPI_FUNC(PyObject *)
        PyObject_Str(PyObject *);
        PyAPI_DATA(PyTypeObject) PyType_Type;
        static inline int PyType_Check(PyObject *op) { return 1; }
        extern void _PyDebug_PrintTotalRefs(void);
        """
    )
    (tmp_path / "cpython" / "object.h").write_text(
        "PyAPI_FUNC(void) _PyObject_Dump(PyObject *);\n#define PyAPI_FUNC(type) type\n"
    )
    assert cross.exported(tmp_path) == [
        "PyObject_Str",
        "PyType_Type DATA",
        "_PyObject_Dump",
    ]


def test_kept_folders_appear_when_they_are_complete(
    cross: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "tools.new").mkdir()  # of a run that was interrupted
    (tmp_path / "tools.new" / "half").touch()
    new = cross.fresh(tmp_path / "tools")
    assert new == tmp_path / "tools.new"
    assert not new.exists()
