"""The examples as the site offers them: an archive, unpacked far from any checkout."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from pathlib import Path
from urllib.parse import urljoin
from urllib.request import urlopen

import pytest
from blocks import DOCS, ROOT
from whole.test_drawing_board import Program

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(not (DOCS / "conf.py").exists(), reason="no checkout"),
]

#: All that have a page, with the arguments for a free port.
WITH_PAGES = {
    "ws_example.py": ["--port", "0"],
    **{
        f"examples/{name}.py": ["0"]
        for name in (
            "board/board",
            "gmwebsockets/server",
            "pywss/example5",
            "websocket_server/headers",
            "websocket_server/notify",
            "websocket_server/reverse",
            "websocket_server/server",
        )
    },
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = ROOT / "scripts" / "pack_examples.py"
    spec = importlib.util.spec_from_file_location("pack_examples", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = tmp_path_factory.mktemp("downloads")
    script.pack(folder / "examples.zip")
    with zipfile.ZipFile(folder / "examples.zip") as archive:
        archive.extractall(folder)
    return folder / "simple_ws-examples"


def test_archive_has_every_example(unpacked: Path) -> None:
    for path in (ROOT / "examples").rglob("*"):
        if path.suffix in {".py", ".html", ".js", ".css"}:
            copy = unpacked / path.relative_to(ROOT)
            assert copy.read_bytes() == path.read_bytes()


def test_every_example_with_a_page_is_tried() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "examples").rglob("*.py")
        if ".static(" in path.read_text(encoding="utf-8")
    }
    assert found <= WITH_PAGES.keys()
    assert len(found) > 3


@pytest.mark.parametrize(("name", "arguments"), WITH_PAGES.items())
def test_page_of_an_example_loads(
    name: str, arguments: list[str], unpacked: Path
) -> None:
    program = Program(str(unpacked / name), *arguments)
    try:
        address = program.expect(r"(http://\S+)")[1]
        with urlopen(address, timeout=10) as response:
            page = response.read().decode()
        assert "<title>" in page
        for link in re.findall(r'(?:src|href)="([^":]+)"', page):
            with urlopen(urljoin(address, link), timeout=10) as response:
                assert response.status == 200
                assert response.read()
    finally:
        program.stop()
