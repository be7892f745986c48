"""Files of a folder: which ones are visible, and which part of one is sent."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import (
    DEADLINE,
    Driven,
    Echo,
    open_files,
    open_peer,
    request,
    running,
    small_buffers,
)
from http_peer import Answered, HttpPeer, ask, browse, get

from simple_ws import Server
from simple_ws.connection.options import Options
from simple_ws.http import static
from simple_ws.protocol.response import http_date

posix = pytest.mark.skipif(os.name == "nt", reason="of other systems")

LETTERS = b"abcdefghijklmnopqrstuvwxyz"
#: Sun, 06 Nov 1994 08:49:37 GMT
MODIFIED = 784111777


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to be served, and secrets around it."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "public-secret").mkdir()
    (tmp_path / "public-secret" / "x.txt").write_text("secret")
    root = tmp_path / "public"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / ".git").mkdir()
    for name, data in {
        "index.html": b"<h1>root</h1>",
        "letters.txt": LETTERS,
        "nothing.bin": b"",
        "sub/index.html": b"<h1>sub</h1>",
        "sub/deep/x.js": b"x = 1",
        "a b+c&d.txt": b"odd",
        "Grüße.txt": b"hello",
        ".hidden": b"secret",
        ".git/config": b"secret",
    }.items():
        (root / name).write_bytes(data)
    os.utime(root / "letters.txt", (MODIFIED, MODIFIED))
    return root


@pytest.fixture
def driven(folder: Path) -> Iterator[Driven]:
    with Driven(Echo()) as driven:
        driven.server._router._rest = None
        driven.server.static("/", folder)
        driven.server.static("/files", folder)
        yield driven


# --- Whole files ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", b"<h1>root</h1>"),
        ("/index.html", b"<h1>root</h1>"),
        ("/sub/", b"<h1>sub</h1>"),
        ("/sub/deep/x.js", b"x = 1"),
        ("/letters.txt", LETTERS),
        ("/letters.txt?version=7", LETTERS),
        ("/nothing.bin", b""),
        ("/a%20b+c%26d.txt", b"odd"),
        ("/Gr%C3%BC%C3%9Fe.txt", b"hello"),
        ("/files/", b"<h1>root</h1>"),
        ("/files/letters.txt", LETTERS),
        ("/%6Cetters.txt", LETTERS),
        ("/sub%2Findex.html", b"<h1>sub</h1>"),
        ("http://example.com/letters.txt", LETTERS),
    ],
)
def test_file_is_sent(driven: Driven, path: str, body: bytes) -> None:
    answered = get(driven, path)
    assert (answered.status, answered.body) == (200, body)
    assert answered.headers["content-length"] == str(len(body))
    assert answered.headers["accept-ranges"] == "bytes"
    assert answered.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.HTML", "text/html; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.wasm", "application/wasm"),
        ("a.json", "application/json"),
        ("a.svg", "image/svg+xml"),
        ("a.png", "image/png"),
        ("a.pdf", "application/pdf"),
        ("a.woff2", "font/woff2"),
        ("a.tar.gz", "application/gzip"),
        ("a.html.gz", "application/gzip"),
        ("a.bz2", "application/x-bzip2"),
        ("a.Z", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_type_is_told_by_the_name(
    driven: Driven, folder: Path, name: str, content_type: str
) -> None:
    (folder / name).write_bytes(b"x")
    assert get(driven, f"/{name}").headers["content-type"] == content_type


def test_head_tells_the_same_without_the_body(driven: Driven) -> None:
    peer = browse(driven)
    full, head = peer.get("/letters.txt"), peer.fetch("HEAD", "/letters.txt")
    assert head.body == b""
    assert head.status == 200
    for one in (full, head):
        one.headers.pop("date")
    assert head.headers == full.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
def test_files_are_only_read(driven: Driven, method: str) -> None:
    answered = browse(driven).fetch(method, "/letters.txt")
    assert answered.status == 405
    assert answered.headers["allow"] == "GET, OPTIONS, HEAD"


def test_upgrade_in_a_folder_is_405(driven: Driven) -> None:
    peer = driven.join()
    peer.write(request("/letters.txt"))
    assert peer.read_rest().startswith(b"HTTP/1.1 405 ")


def test_upgrade_where_no_file_is_is_404(driven: Driven) -> None:
    peer = driven.join()
    peer.write(request("/nothing/here"))
    assert peer.read_rest().startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/chat/7", 426),
        ("POST", "/chat/7", 405),
        ("GET", "/chat", 404),
        ("GET", "/letters.txt", 200),
    ],
)
def test_folder_hides_no_path_of_a_handler(
    driven: Driven, method: str, path: str, status: int
) -> None:
    driven.server.mount("/chat/{room}", Echo())
    driven.server.mount("/letters.txt", Echo())
    assert browse(driven).fetch(method, path).status == status


def test_missing_file_is_404_beside_a_handler_of_all_paths(driven: Driven) -> None:
    driven.server.mount("*", Echo())
    assert get(driven, "/favicon.ico").status == 404


def test_file_that_changes_is_another_one(driven: Driven, folder: Path) -> None:
    peer = browse(driven)
    before = peer.get("/letters.txt").headers["etag"]
    assert peer.get("/letters.txt").headers["etag"] == before
    (folder / "letters.txt").write_bytes(LETTERS.upper())
    after = peer.get("/letters.txt")
    assert after.headers["etag"] != before
    assert after.body == LETTERS.upper()


# --- Folders --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/sub", "/sub/"),
        ("/sub?a=b%20c&d", "/sub/?a=b%20c&d"),
        ("/files", "/files/"),
        ("/files/sub", "/files/sub/"),
        ("/%73ub", "/sub/"),
        ("http://evil.example/sub", "/sub/"),
    ],
)
def test_folder_is_redirected_to_its_slash(
    driven: Driven, path: str, location: str
) -> None:
    answered = get(driven, path)
    assert (answered.status, answered.headers["location"]) == (301, location)


@posix
def test_odd_name_of_a_folder_is_quoted(driven: Driven, folder: Path) -> None:
    (folder / "a b\r\nX: y").mkdir()
    answered = get(driven, "/a%20b%0D%0AX:%20y")
    assert answered.headers["location"] == "/a%20b%0D%0AX%3A%20y/"
    assert "x" not in answered.headers


def test_redirect_never_leads_to_another_host(driven: Driven, folder: Path) -> None:
    (folder / "evil.example").mkdir()
    for path in ("//evil.example", "///evil.example", "/%2Fevil.example", "//sub"):
        assert get(driven, path).status == 404
    assert get(driven, "http://x//evil.example").status == 404
    assert get(driven, "/evil.example").headers["location"] == "/evil.example/"


def test_folder_without_a_page_is_404(driven: Driven) -> None:
    assert get(driven, "/empty/").status == 404


def test_index_that_is_a_folder_is_404(driven: Driven, folder: Path) -> None:
    (folder / "empty" / "index.html").mkdir()
    assert get(driven, "/empty/").status == 404
    assert get(driven, "/empty/index.html/").status == 404


# --- What is not there ----------------------------------------------------------------

HIDDEN = [
    "/missing",
    "/missing/",
    "/letters.txt/",
    "/letters.txt/x",
    "/sub/missing.js",
    "/..",
    "/../secret.txt",
    "/sub/../letters.txt",
    "/sub/../../secret.txt",
    "/%2e%2e/secret.txt",
    "/%2E%2E/secret.txt",
    "/.%2e/secret.txt",
    "/..%2fsecret.txt",
    "/%2e%2e%2fsecret.txt",
    "/sub/%2e%2e/%2e%2e/secret.txt",
    "/%252e%252e/secret.txt",
    "/..%5csecret.txt",
    "/..\\secret.txt",
    "/sub%5cindex.html",
    "/sub\\index.html",
    "/./letters.txt",
    "/sub/./index.html",
    "/%00",
    "/letters.txt%00",
    "/letters.txt%00.html",
    "/%2e",
    "/.hidden",
    "/%2ehidden",
    "/.git/config",
    "/.git/",
    "/.git",
    "/sub//index.html",
    "/sub//deep/x.js",
    "//letters.txt",
    "//",
    "/%2Fetc/passwd",
    "//etc/passwd",
    "/etc/passwd",
    "/C:/Windows/win.ini",
    "/~root",
    "/..;/secret.txt",
    "/letters.txt;x",
    "/public-secret/x.txt",
    "/../public-secret/x.txt",
    "/files/../letters.txt",
    "/files/..%2f..%2fsecret.txt",
    "/files%2f..%2f..%2fsecret.txt",
    "/filesletters.txt",
    "/%ff",
    "/%c0%ae%c0%ae/secret.txt",
    "/" + "x" * 300,
    "/" + "x/" * 4000,
    "/sub" + "/deep" * 2000,
    "/" + "%2e%2e/" * 500 + "etc/passwd",
]


@pytest.mark.parametrize("path", HIDDEN)
def test_what_may_not_be_seen_is_not_there(driven: Driven, path: str) -> None:
    peer = browse(driven)
    for _ in range(2):  # the connection stays
        answered = peer.get(path)
        assert (answered.status, answered.body) == (
            404,
            b"There is nothing at this path.\n",
        )


@posix
def test_name_that_looks_like_a_windows_path_is_not_there(
    driven: Driven, folder: Path
) -> None:
    (folder / "a\\b.txt").write_bytes(b"secret")
    assert get(driven, "/a%5Cb.txt").status == 404


def test_path_that_does_not_exist_takes_no_time(
    driven: Driven, monkeypatch: Any
) -> None:
    """Following links asks the system for each of 8,000 segments."""
    monkeypatch.setattr(static.os.path, "realpath", lambda path: 1 / 0)
    assert get(driven, "/" + "x/" * 8000).status == 404


@posix
def test_links_inside_the_folder_are_followed(driven: Driven, folder: Path) -> None:
    (folder / "link.txt").symlink_to("letters.txt")
    (folder / "up").symlink_to(folder / "sub")
    (folder / "..data").mkdir()  # as Kubernetes mounts its folders
    (folder / "..data" / "real").write_bytes(b"mounted")
    (folder / "mounted").symlink_to("..data/real")
    peer = browse(driven)
    assert peer.get("/link.txt").body == LETTERS
    assert peer.get("/up/deep/x.js").body == b"x = 1"
    assert peer.get("/up").headers["location"] == "/up/"
    assert peer.get("/mounted").body == b"mounted"


@posix
@pytest.mark.parametrize("target", ["../secret.txt", "/etc/passwd", "loop", "missing"])
def test_links_out_of_the_folder_are_not(
    driven: Driven, folder: Path, target: str
) -> None:
    (folder / "loop").symlink_to("loop")
    (folder / "link").symlink_to(target)
    assert get(driven, "/link").status == 404
    assert get(driven, "/link/").status == 404


@posix
def test_folders_behind_links_out_are_not_seen(driven: Driven, folder: Path) -> None:
    (folder / "out").symlink_to("../public-secret")
    for path in ("/out", "/out/", "/out/x.txt"):
        assert get(driven, path).status == 404
    (folder / "empty" / "index.html").symlink_to("../../secret.txt")
    assert get(driven, "/empty/").status == 404


@posix
def test_special_files_are_not_opened(
    driven: Driven, folder: Path, monkeypatch: Any
) -> None:
    """Opening a device may do things."""
    monkeypatch.setattr(static.os, "open", lambda path, flags: 1 / 0)
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # the path of a Unix socket has at most 107 bytes
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        (folder / "null").symlink_to("/dev/null")
        for path in ("/fifo", "/socket", "/null"):
            assert get(driven, path).status == 404


#: What somebody who may write into the folder does between our look and our opening.
SWAPS: dict[str, Callable[[Path], None]] = {
    "a link for the file": lambda folder: replace(
        folder / "sub/deep/x.txt", OUT / "x.txt"
    ),
    "a link for its folder": lambda folder: replace(folder / "sub/deep", OUT),
    "a link further above": lambda folder: replace(folder / "sub", OUT / "sub"),
    "a FIFO": lambda folder: put_fifo(folder / "sub/deep/x.txt"),
    "nothing for the file": lambda folder: os.unlink(folder / "sub/deep/x.txt"),
    "nothing for the folder": lambda folder: shutil.rmtree(folder / "sub"),
    "a file for the folder": lambda folder: put_file(folder / "sub"),
    "nothing at all": lambda folder: shutil.rmtree(folder),
}
OUT = Path("../public-secret")


def replace(path: Path, target: Path) -> None:
    """Have a link where something was; the target is told from the served folder."""
    root = next(parent for parent in path.parents if parent.name == "public")
    path.rename(root.parent / "moved")
    path.symlink_to((root / target).resolve())


def put_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("secret")


@posix
@pytest.mark.parametrize("by_folders", [True, False])
@pytest.mark.parametrize("what", SWAPS)
def test_what_is_swapped_behind_the_check_is_not_sent(
    driven: Driven,
    folder: Path,
    monkeypatch: Any,
    caplog: Any,
    what: str,
    by_folders: bool,
) -> None:
    secrets = folder.parent / "public-secret"
    (secrets / "sub" / "deep").mkdir(parents=True)
    (secrets / "sub" / "deep" / "x.txt").write_text("secret")
    (folder / "sub" / "deep" / "x.txt").write_text("public")
    monkeypatch.setattr(static, "_BY_FOLDERS", by_folders)
    assert get(driven, "/sub/deep/x.txt").text == "public"
    check = os.lstat

    def look_and_swap(path: str) -> os.stat_result:
        found = check(path)
        monkeypatch.setattr(static.os, "lstat", check)
        SWAPS[what](folder)
        return found

    before = open_files()
    monkeypatch.setattr(static.os, "lstat", look_and_swap)
    answered = get(driven, "/sub/deep/x.txt")
    assert (answered.status, b"secret" in answered.body) == (404, False)
    assert caplog.records == []
    assert open_files() <= before + 2  # of the peer


@posix
def test_link_that_becomes_a_folder_while_it_is_followed_is_404(
    driven: Driven, folder: Path, monkeypatch: Any, caplog: Any
) -> None:
    (folder / "link").symlink_to("sub")
    read = os.readlink

    def swap(path: Any, **rest: Any) -> Any:
        (folder / "link").unlink()
        (folder / "link").mkdir()
        return read(path, **rest)

    monkeypatch.setattr(static.os, "readlink", swap)
    assert get(driven, "/link/deep/x.js").status == 404
    assert caplog.records == []


@posix
def test_folder_that_may_only_be_passed_is_passed(driven: Driven, folder: Path) -> None:
    (folder / "sub" / "deep").chmod(0o311)
    (folder / "sub").chmod(0o311)
    assert get(driven, "/sub/deep/x.js").text == "x = 1"


@posix
def test_file_that_vanishes_while_it_is_looked_for_is_404(
    driven: Driven, folder: Path, monkeypatch: Any, caplog: Any
) -> None:
    real = os.path.realpath

    def vanish(path: str) -> str:
        shutil.rmtree(folder / "sub", ignore_errors=True)
        return real(path)

    monkeypatch.setattr(static.os.path, "realpath", vanish)
    for path in ("/sub/deep/x.js", "/sub/", "/sub", "/sub/index.html"):
        (folder / "sub" / "deep").mkdir(parents=True, exist_ok=True)
        (folder / "sub" / "deep" / "x.js").touch()
        assert get(driven, path).status in (301, 404)
    assert caplog.records == []


@posix
@pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() == 0, reason="root may read everything"
)
def test_file_that_may_not_be_read_is_not_there(driven: Driven, folder: Path) -> None:
    (folder / "letters.txt").chmod(0)
    assert get(driven, "/letters.txt").status == 404


def test_lack_of_descriptors_is_503(driven: Driven, monkeypatch: Any) -> None:
    def fail(path: str, flags: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(static.os, "open", fail)
    answered = get(driven, "/letters.txt")
    assert answered.status == 503
    assert "retry-after" in answered.headers


@pytest.mark.parametrize(
    ("prefix", "folder", "error", "words"),
    [
        ("/", "no-such-folder", ValueError, "folder must be an existing folder"),
        ("/", __file__, ValueError, "folder must be an existing folder"),
        ("/", "a\0b", ValueError, "folder must be an existing folder"),
        ("/", None, TypeError, "folder must be a path, not None"),
        ("/", 5, TypeError, "folder must be a path, not 5"),
        (5, ".", TypeError, "prefix must be a str, not 5"),
        ("files", ".", ValueError, "prefix must be a path"),
        ("", ".", ValueError, "prefix must be a path"),
        ("//files", ".", ValueError, "prefix must be a path"),
        ("/files/*", ".", ValueError, "prefix must be a path"),
        ("/{x}", ".", ValueError, "prefix must be a path"),
    ],
)
def test_wrong_prefixes_and_folders_are_refused(
    prefix: Any, folder: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Server("127.0.0.1", 0).static(prefix, folder)


def test_prefix_is_taken_once(folder: Path) -> None:
    server = Server("127.0.0.1", 0)
    server.static("/files", folder)
    with pytest.raises(ValueError, match="is mounted already"):
        server.static("/files/", folder)


# --- Conditions -----------------------------------------------------------------------


def etag_of(driven: Driven) -> str:
    return get(driven, "/letters.txt").headers["etag"]


def at(seconds: float) -> str:
    return http_date(MODIFIED + seconds)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("{}", 304),
        ("W/{}", 304),
        ('"x", {}', 304),
        ('"x",W/{} , "y"', 304),
        ("*", 304),
        ('"x"', 200),
        ("{}x", 304),
        ("", 200),
        ("nonsense", 200),
    ],
)
def test_if_none_match(driven: Driven, value: str, status: int) -> None:
    etag = etag_of(driven)
    line = f"If-None-Match: {value.format(etag)}"
    # A date of ours would say the opposite, and does not count beside it.
    answered = get(driven, "/letters.txt", line, f"If-Modified-Since: {at(-9)}")
    assert answered.status == status
    assert answered.headers["etag"] == etag
    assert answered.headers["last-modified"] == at(0)
    assert answered.body == (b"" if status == 304 else LETTERS)
    assert ("content-length" in answered.headers) is (status == 200)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (at(0), 304),
        (at(1), 304),
        (at(-1), 200),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 304),  # RFC 9110 §5.6.7, obsolete
        ("nonsense", 200),
        ("", 200),
        ("99999999999", 200),
    ],
)
def test_if_modified_since(driven: Driven, value: str, status: int) -> None:
    line = f"If-Modified-Since: {value}"
    assert get(driven, "/letters.txt", line).status == status
    assert browse(driven).fetch("HEAD", "/letters.txt", line).status == status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("If-Match: {}", 200),
        ('If-Match: "x", {}', 200),
        ("If-Match: *", 200),
        ('If-Match: "x"', 412),
        ("If-Match: W/{}", 412),
        (f"If-Unmodified-Since: {at(0)}", 200),
        (f"If-Unmodified-Since: {at(-1)}", 412),
        ("If-Unmodified-Since: nonsense", 200),
    ],
)
def test_if_match_and_if_unmodified_since(
    driven: Driven, line: str, status: int
) -> None:
    assert get(driven, "/letters.txt", line.format(etag_of(driven))).status == status


def test_date_in_the_future_is_not_told(driven: Driven, folder: Path) -> None:
    os.utime(folder / "letters.txt", (2**33, 2**33))
    answered = get(driven, "/letters.txt")
    # RFC 9110 §8.8.2.1
    assert (
        abs(static._date(answered.headers["last-modified"], default=0) - time.time())
        < 60
    )


# --- Ranges ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("bytes=0-4", 0, 4),
        ("bytes=0-0", 0, 0),
        ("bytes=25-25", 25, 25),
        ("bytes=20-", 20, 25),
        ("bytes=20-999", 20, 25),
        ("bytes=0-", 0, 25),
        ("bytes=-5", 21, 25),
        ("bytes=-26", 0, 25),
        ("bytes=-999", 0, 25),
        ("BYTES=0-4", 0, 4),
        ("bytes= 0-4", 0, 4),
    ],
)
def test_range_is_sent(driven: Driven, value: str, first: int, last: int) -> None:
    answered = get(driven, "/letters.txt", f"Range: {value}")
    assert (answered.status, answered.body) == (206, LETTERS[first : last + 1])
    assert answered.headers["content-range"] == f"bytes {first}-{last}/26"
    assert answered.headers["content-length"] == str(last - first + 1)
    assert answered.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "value", "size"),
    [
        ("/letters.txt", "bytes=26-", 26),
        ("/letters.txt", "bytes=26-30", 26),
        ("/letters.txt", "bytes=999999999999-", 26),
        ("/letters.txt", "bytes=-0", 26),
        ("/nothing.bin", "bytes=0-", 0),
        ("/nothing.bin", "bytes=-5", 0),
    ],
)
def test_range_beyond_the_end_is_416(
    driven: Driven, path: str, value: str, size: int
) -> None:
    answered = get(driven, path, f"Range: {value}")
    assert (answered.status, answered.body) == (416, b"")
    assert answered.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    "value",
    [
        "bytes=0-4,6-8",
        "bytes=4-0",
        "bytes=-",
        "bytes=",
        "bytes",
        "bytes=a-b",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes=1_0-20",
        "lines=0-4",
        "bytes=0-" + "9" * 5000,
        "bytes=\xb2-\xb3",
        "",
    ],
)
def test_other_ranges_are_the_whole_file(driven: Driven, value: str) -> None:
    answered = get(driven, "/letters.txt", f"Range: {value}")
    assert (answered.status, answered.body) == (200, LETTERS)


def test_range_is_for_get_alone(driven: Driven) -> None:
    # RFC 9110 §14.2: for other methods a server "MUST ignore" it.
    answered = browse(driven).fetch("HEAD", "/letters.txt", "Range: bytes=0-4")
    assert (answered.status, answered.headers["content-length"]) == (200, "26")


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("{}", 206),
        (at(0), 206),
        ("W/{}", 200),
        ('"x"', 200),
        (at(1), 200),
        (at(-1), 200),
        ("nonsense", 200),
    ],
)
def test_if_range(driven: Driven, value: str, status: int) -> None:
    line = f"If-Range: {value.format(etag_of(driven))}"
    answered = get(driven, "/letters.txt", "Range: bytes=0-4", line)
    assert answered.status == status
    assert answered.body == (LETTERS[:5] if status == 206 else LETTERS)


def test_condition_comes_before_the_range(driven: Driven) -> None:
    line = f"If-None-Match: {etag_of(driven)}"
    assert get(driven, "/letters.txt", "Range: bytes=99-", line).status == 304


# --- Large files ----------------------------------------------------------------------


def test_large_file_is_sent_piece_by_piece(
    driven: Driven, folder: Path, monkeypatch: Any
) -> None:
    data = os.urandom(1_000_003)
    (folder / "large.bin").write_bytes(data)
    sizes: list[int] = []
    read = os.read

    def note(descriptor: int, size: int) -> bytes:
        sizes.append(size)
        return read(descriptor, size)

    monkeypatch.setattr(static.os, "read", note)
    peer = HttpPeer(driven.join(small_buffers))
    peer.peer.write(ask("GET", "/large.bin"))
    driven.turn(20)
    assert len(sizes) <= 2
    answered: Answered = peer.read()
    assert answered.body == data
    assert max(sizes) == 65536
    assert (
        peer.get("/large.bin", "Range: bytes=70000-900000").body == data[70000:900001]
    )


def test_file_that_becomes_shorter_is_cut(driven: Driven, folder: Path) -> None:
    (folder / "large.bin").write_bytes(b"x" * 1_000_000)
    peer = driven.join(small_buffers)
    peer.write(ask("GET", "/large.bin"))
    driven.turn(3)
    os.truncate(folder / "large.bin", 100_000)
    assert len(peer.read_rest()) < 1_000_000
    assert not driven.handshaking


def test_files_are_closed_whatever_becomes_of_them(
    driven: Driven, folder: Path
) -> None:
    (folder / "large.bin").write_bytes(b"x" * 1_000_000)
    etag = f"If-None-Match: {etag_of(driven)}"
    driven.advance(Options().keep_alive + 2)
    before = open_files()
    for head in (
        ask("GET", "/letters.txt"),
        ask("HEAD", "/letters.txt"),
        ask("GET", "/letters.txt", etag),
        ask("GET", "/letters.txt", "Range: bytes=99-"),
        ask("GET", "/letters.txt", "Range: bytes=1-5"),
        ask("GET", "/nothing.bin"),
        ask("GET", "/large.bin"),  # of which nothing is read
    ):
        peer = driven.join(small_buffers)
        peer.write(head)
        driven.turn(3)
        peer.close()
        driven.until(lambda: not driven.handshaking)
        driven._peers.remove(peer)
    assert open_files() == before


def test_slow_download_does_not_delay_websocket_over_tcp(folder: Path) -> None:
    data = os.urandom(20_000_000)
    (folder / "large.bin").write_bytes(data)
    with running(Echo()) as server:
        server.static("/", folder)
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        client.request("GET", "/large.bin")
        download = client.getresponse()
        assert download.read(1000) == data[:1000]
        with open_peer(server) as peer:
            for number in range(20):
                peer.text(str(number))
                assert peer.read_message() == str(number)
        assert download.read() == data[1000:]
        client.request("GET", "/letters.txt")
        assert client.getresponse().read() == LETTERS
        client.close()
