"""What `make package` refuses; the building itself is not done here."""

from __future__ import annotations

import importlib.util
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from blocks import ROOT

SCRIPT = ROOT / "scripts" / "check_package.py"

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(not SCRIPT.exists(), reason="no checkout"),
]

URLS = '[project.urls]\nSource = "https://example.org/simple_ws"\n'


@pytest.fixture
def package() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("check_package", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("tag", "urls", "section", "fault"),
    [
        ("v1.2.3", URLS, "## 1.2.3 (2027-01-31)", None),
        ("v1.2.4", URLS, "## 1.2.3 (2027-01-31)", "the tag is v1.2.4, and"),
        ("1.2.3", URLS, "## 1.2.3 (2027-01-31)", "the tag is 1.2.3, and"),
        ("v1.2.3", "", "## 1.2.3 (2027-01-31)", "no [project.urls]"),
        ("v1.2.3", URLS, "## 1.2.3 (not yet released)", "not with 1.2.3 and its date"),
        ("v1.2.3", URLS, "## 1.2.2 (2027-01-31)", "not with 1.2.3 and its date"),
        ("v1.2.3", URLS, "## Unreleased", "not with 1.2.3 and its date"),
    ],
)
def test_a_release_needs_its_tag_a_dated_section_and_addresses(
    package: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tag: str,
    urls: str,
    section: str,
    fault: str | None,
) -> None:
    project = f'[project]\nname = "x"\nversion = "1.2.3"\n{urls}'
    (tmp_path / "pyproject.toml").write_text(project)
    changelog = f"# Changelog\n\n{section}\n\n## 1.0.0 (2026-01-01)\n"
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    monkeypatch.setattr(package, "ROOT", tmp_path)
    faults = package.not_releasable(tag)
    assert len(faults) == (fault is not None)
    if fault is not None:
        assert fault in faults[0]


def test_an_sdist_is_the_checkout(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdist = tmp_path / "x-1.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in ("x/__init__.py", "x.egg-info/PKG-INFO", "PKG-INFO", "secret"):
            archive.addfile(tarfile.TarInfo(f"x-1/{name}"))
    monkeypatch.setattr(package, "tracked", lambda: {"x/__init__.py", "LICENSE"})
    assert package.wrong_in_sdist(sdist) == [
        "x-1.tar.gz has secret",
        "x-1.tar.gz lacks LICENSE",
    ]


def test_a_wheel_has_the_package_and_one_extension(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "x-1.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("simple_ws/a.py", "x-1.dist-info/RECORD", "tests/a.py"):
            archive.writestr(name, "")
    checkout = {"simple_ws/a.py", "simple_ws/b.py", "simple_ws/_c/c.pxi", "setup.py"}
    monkeypatch.setattr(package, "tracked", lambda: checkout)
    faults = ["x-1.whl has tests/a.py", "x-1.whl lacks simple_ws/b.py"]
    assert package.wrong_in_wheel(wheel) == [*faults, "x-1.whl has 0 extensions"]
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("simple_ws/_speedups.cp315-win_amd64.pyd", "large")
    assert package.wrong_in_wheel(wheel) == faults
    monkeypatch.setattr(package, "EXTENSION_LIMIT", 4)
    assert package.wrong_in_wheel(wheel)[len(faults) :] == [
        "simple_ws/_speedups.cp315-win_amd64.pyd has more than 4 bytes"
    ]
