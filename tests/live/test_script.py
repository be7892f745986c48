"""client.js and its types, as they are served and packed."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_js import NODE, PACKAGES, SCRIPTS, needs_node

import simple_ws.live
from simple_ws import Server
from simple_ws.live.script import client_js
from simple_ws.testing import TestServer

SOURCE = Path(simple_ws.live.__file__).parent / "client.js"
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "client-js.md"
#: Bytes; what it costs a page that opens for the first time.
MAX_SIZE = 5 * 1024


@pytest.fixture
def kit() -> Iterator[TestServer]:
    server = Server("", 0)
    server.live("/live")
    with TestServer(server) as kit:
        yield kit


def get(kit: TestServer, path: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return kit.request("GET", path, headers=named)


def test_it_takes_five_kilobytes() -> None:
    assert len(client_js().packed) <= MAX_SIZE


def test_comments_are_not_sent_and_lines_keep_their_numbers() -> None:
    source = SOURCE.read_text("utf-8").splitlines()
    sent = client_js().plain.decode().splitlines()
    assert len(sent) == len(source)
    for before, after in zip(source, sent, strict=True):
        assert after == ("" if re.match(r" *(//|/?\*)", before) else before.lstrip())
    assert "/*" not in client_js().plain.decode()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/live/client.js", "text/javascript; charset=utf-8"),
        ("/live/client.d.ts", "application/typescript; charset=utf-8"),
    ],
)
def test_files_are_served_plain_and_packed(
    kit: TestServer, path: str, kind: str
) -> None:
    plain = get(kit, path)
    packed = get(kit, path, Accept_Encoding="br, gzip")
    for response in (plain, packed):
        assert response.status == 200
        assert response.headers["Content-Type"] == kind
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["Vary"] == "Accept-Encoding"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    etag = plain.headers["ETag"]
    for known in (etag, f'"x", {etag}', "*", etag.removeprefix("W/")):
        unchanged = get(kit, path, If_None_Match=known)
        assert (unchanged.status, unchanged.body) == (304, b"")
        assert unchanged.headers["ETag"] == etag
    assert get(kit, path, If_None_Match='W/"other"').status == 200


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip", True),
        ("GZIP;q=0.5", True),
        ("*", True),
        ("deflate", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("*;q=0", False),
        ("", False),
    ],
)
def test_gzip_is_sent_to_those_that_accept_it(
    kit: TestServer, accepted: str, packed: bool
) -> None:
    response = get(kit, "/live/client.js", Accept_Encoding=accepted)
    assert ("Content-Encoding" in response.headers) is packed


def test_all_that_is_public_has_types_and_is_documented() -> None:
    """Methods of the classes that stand in client.js, and the names of the types."""
    source, types = (
        SOURCE.read_text("utf-8"),
        SOURCE.with_suffix(".d.ts").read_text("utf-8"),
    )
    classes = source[source.index("class Party") :]
    methods = set(re.findall(r"^  (?:async )?([a-z]\w+)\(.*\{", classes, re.MULTILINE))
    methods -= {"constructor", *_methods_of("Stream", source)}
    assert {"subscribe", "publish", "ready", "once"} <= methods
    assert [
        name for name in methods if f" {name}(" not in types.replace("<", "(")
    ] == []
    exported = re.findall(r"^export class (\w+)", source, re.MULTILINE)
    assert exported == ["UnauthorizedError", "Centrifuge"]
    if not REFERENCE.exists():
        pytest.skip("no checkout: no documentation")
    page = REFERENCE.read_text("utf-8")
    assert [name for name in (*methods, *exported) if name not in page] == []


def _methods_of(name: str, source: str) -> list[str]:
    begin = source.index(f"class {name} ")
    body = source[begin : source.index("\n}", begin)]
    return re.findall(r"^  (\w+)\(", body, re.MULTILINE)


@needs_node
def test_types_are_those_of_the_client(tmp_path: Path) -> None:
    for file in (SCRIPTS / "types.ts", SOURCE, SOURCE.with_suffix(".d.ts")):
        shutil.copy(file, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    compiler = PACKAGES / "typescript" / "bin" / "tsc"
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext"]
    done = subprocess.run(
        [NODE, str(compiler), *options, "types.ts"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
