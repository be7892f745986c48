"""Configuration files of `simple-ws live`: forms, and what is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from simple_ws.cli.live.files import read_file
from simple_ws.cli.values import UsageError

pytestmark = pytest.mark.one_backend

WANTED = {"client": {"insecure": True, "allowed_origins": ["a", "b"]}}
FORMS = {
    "a.json": '{"client": {"insecure": true, "allowed_origins": ["a", "b"]}}',
    "b.JSON": '\ufeff{"client": {"insecure": true, "allowed_origins": ["a", "b"]}}',
    "c.toml": '[client]\ninsecure = true\nallowed_origins = ["a", "b"]\n',
    "d.yaml": "client:\n  insecure: true\n  allowed_origins: [a, b]\n",
    "e.yml": "client: {insecure: true, allowed_origins: [a, b]}\n",
}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", FORMS)
def test_forms(tmp_path: Path, name: str) -> None:
    assert read_file(write(tmp_path, name, FORMS[name])) == WANTED


@pytest.mark.parametrize("name", ["a.json", "a.toml", "a.yaml"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    assert read_file(write(tmp_path, name, "\n")) == {}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"a": }', "a.json: Expecting value"),
        ("a.json", "[" * 100_000, "a.json: "),
        ("a.json", "[]", "a.json must have keys and values at the top"),
        ("a.toml", "a = ", "a.toml: Invalid value"),
        ("a.yaml", "a: [", "a.yaml: while parsing"),
        ("a.yaml", "!!python/object/apply:os.getcwd []", "could not determine"),
        ("a.ini", "a = 1", "the name must end with .json, .toml, .yaml, .yml"),
    ],
)
def test_what_is_no_configuration(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read_file(write(tmp_path, name, text))
    assert said in str(caught.value)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.json: No such file or directory"):
        read_file(tmp_path / "no.json")
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UsageError, match=r"a\.json is not UTF-8"):
        read_file(tmp_path / "a.json")


def test_yaml_without_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(UsageError, match="reading YAML needs PyYAML: pip install"):
        read_file(write(tmp_path, "a.yaml", "a: 1"))
