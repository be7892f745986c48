"""Files of a folder as HTTP responses (RFC 9110 §13 and §14).

This module decides which files may be seen, and which part of one is sent; how that
reaches the socket is left to `exchange`. Files are read in the loop's thread, a piece
when the socket takes one, so they should be on a local disk.
"""

from __future__ import annotations

import errno
import mimetypes
import os
import re
import stat
import time
from email.utils import parsedate_to_datetime
from pathlib import PurePath
from urllib.parse import quote

from ..connection.admission import retry_after
from ..errors import NOT_FOUND, HandshakeError
from ..protocol.fields import Headers
from ..protocol.http_body import Stream
from ..protocol.request import Request
from ..protocol.response import Response, http_date
from .cors import Cors
from .etags import names_etag
from .exchange import Exchange
from .routes import Route, check_prefix

__all__ = ["Static"]

#: Bytes of a file in memory at a time, for each connection.
_PIECE = 64 * 1024
#: Not allowed in a path segment; on Windows also drives, streams, short names.
_FORBIDDEN = frozenset("\\\0" + (":~" if os.name == "nt" else ""))
#: Do not follow a link created meanwhile, and do not wait for a writer.
_OPEN_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):
    _OPEN_FLAGS |= getattr(os, _name, 0)
#: For the folders above it, each opened relative to its parent, without following
#: links. With O_PATH they need not be readable, as when a path is opened at once.
_FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY)
for _name in ("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC"):
    _FOLDER_FLAGS |= getattr(os, _name, 0)
#: Whether this system can do that; Windows cannot.
_BY_FOLDERS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
#: RFC 9110 §14.1.2, a single range; longer numbers fit no file.
_RANGE = re.compile(r"bytes=[\t ]*([0-9]{0,18})-([0-9]{0,18})[\t ]*", re.IGNORECASE)

#: Types that browsers are strict about or systems disagree about.
_TYPES = {
    ".avif": "image/avif",
    ".css": "text/css",
    ".csv": "text/csv",
    ".htm": "text/html",
    ".html": "text/html",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "text/xml",
}
_COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
}


class Static:
    """The files of a folder, below a prefix.

    Args:
        prefix: URL path of the folder.
        folder: an existing folder.
        cors: which pages of other origins may read them.

    Raises:
        TypeError: The folder is not a path.
        ValueError: See `check_prefix`; there is no such folder.
    """

    def __init__(
        self, prefix: str, folder: str | os.PathLike[str], cors: Cors | None = None
    ) -> None:
        self.prefix = check_prefix(prefix)
        if not isinstance(folder, str | os.PathLike):
            raise TypeError(f"folder must be a path, not {folder!r}")
        if not os.path.isdir(folder):
            raise ValueError(f"folder must be an existing folder, not {folder!r}")
        self._root = os.path.realpath(os.fsdecode(folder))
        self.route = Route(has=self._has)
        self.route.add(prefix, ["GET"], self._serve, cors)

    def _serve(self, exchange: Exchange) -> None:
        exchange.respond(self._answer(exchange.request))

    def _answer(self, request: Request) -> Response | Stream:
        found = self._find(request)
        if found is None:
            return _redirect(request)
        return _send(request, self._root, found)

    def _has(self, request: Request) -> bool:
        try:
            self._find(request)
        except HandshakeError:
            return False
        return True

    def _find(self, request: Request) -> str | None:
        """The real path of the requested file; None for a folder without its slash.

        Raises:
            HandshakeError: 404.
        """
        path = request.path.removeprefix(self.prefix)
        segments = path.split("/")[1:]
        # The last segment is empty for a folder; so is the whole path for the root.
        names = segments[:-1] if not segments or not segments[-1] else segments
        if not all(map(_may_be_seen, names)):
            raise _not_found()
        found = self._resolve(names)
        if os.path.isdir(found):
            if not path.endswith("/"):
                return None
            return self._resolve([*names, "index.html"])
        if path.endswith("/"):
            raise _not_found()
        return found

    def _resolve(self, names: list[str]) -> str:
        """The real path of an entry of the folder; HandshakeError 404 if there is none.

        Links inside the folder are followed, even to files with hidden names; links
        that lead out of it are not.
        """
        asked = os.path.join(self._root, *names)
        # One system call instead of many to follow the links of a long path.
        if not os.path.lexists(asked):
            raise _not_found()
        try:
            found = os.path.realpath(asked)
        except OSError:  # the link no longer exists
            raise _not_found() from None
        if not _is_below(self._root, found):
            raise _not_found()
        return found


def _is_below(root: str, path: str) -> bool:
    try:
        return os.path.commonpath([root, path]) == root
    except ValueError:  # on another drive
        return False


def _may_be_seen(name: str) -> bool:
    """Whether a segment is an ordinary name: not empty, hidden or a trick."""
    return name != "" and name[0] != "." and _FORBIDDEN.isdisjoint(name)


def _not_found() -> HandshakeError:
    return HandshakeError(404, NOT_FOUND)


def _redirect(request: Request) -> Response:
    """Redirect to the same path with a slash, so that relative links are right."""
    # Quoted again: the result starts with a single slash, and names no other host.
    location = quote(request.path) + "/"
    if request.query_string:
        location += f"?{request.query_string}"
    return Response(301, headers=[("Location", location)])


def _send(request: Request, root: str, path: str) -> Response | Stream:
    """The response with a file, after checking all conditions."""
    descriptor, found = _open(root, path)
    try:
        answer = _choose(request, path, descriptor, found)
    except BaseException:
        os.close(descriptor)
        raise
    if isinstance(answer, Response):
        os.close(descriptor)
    return answer


def _open(root: str, path: str) -> tuple[int, os.stat_result]:
    """Open a regular file; anything else counts as missing.

    Args:
        root: the served folder.
        path: the real path of a file in it, as found, without links.
    """
    way = _open_by_folders if _BY_FOLDERS else _open_and_check
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # opening a device has effects
            raise _not_found()
        descriptor = way(root, path)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise HandshakeError(503, "The server is busy.", [retry_after()]) from None
        raise _not_found() from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise _not_found()
    return descriptor, found


def _open_by_folders(root: str, path: str) -> int:
    """Open a file, one folder after the other, without following links.

    Between checking a path and using it, a folder could be replaced by a link
    (CWE-367); O_NOFOLLOW only protects the last part of a path.
    """
    *folders, name = os.path.relpath(path, root).split(os.sep)
    folder = os.open(root, _FOLDER_FLAGS)
    try:
        for inner in folders:
            above, folder = folder, os.open(inner, _FOLDER_FLAGS, dir_fd=folder)
            os.close(above)
        return os.open(name, _OPEN_FLAGS, dir_fd=folder)
    finally:
        os.close(folder)


def _open_and_check(root: str, path: str) -> int:
    """Open a file, and check afterwards that it is the one in the folder."""
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        real = os.path.realpath(path)
        opened = os.fstat(descriptor)
        if not _is_below(root, real) or not os.path.samestat(os.stat(real), opened):
            raise _not_found()
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _choose(
    request: Request, path: str, descriptor: int, found: os.stat_result
) -> Response | Stream:
    # A date in the future would be trusted for too long (RFC 9110 §8.8.2.1).
    modified = int(max(0.0, min(found.st_mtime, time.time())))
    etag = f'"{found.st_size:x}-{found.st_mtime_ns:x}"'
    headers = [
        ("ETag", etag),
        ("Last-Modified", http_date(modified)),
        ("Accept-Ranges", "bytes"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    status = _check_conditions(request.headers, etag, modified)
    if status != 200:
        return Response(status, headers=headers)
    start, stop = 0, found.st_size
    asked = _asked_range(request, etag, modified, found.st_size)
    if asked is not None:
        start, stop = asked
        if start >= stop:
            headers.append(("Content-Range", f"bytes */{found.st_size}"))
            return Response(416, headers=headers)
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{found.st_size}"))
    headers.append(("Content-Type", _type_of(path)))
    source = _FilePart(descriptor, start, stop - start)
    return Stream(200 if asked is None else 206, headers, source, stop - start)


def _check_conditions(headers: Headers, etag: str, modified: int) -> int:
    """200, 304 or 412, in the order of RFC 9110 §13.2.2."""
    if "If-Match" in headers:
        if not names_etag(headers, "If-Match", etag, weak=False):
            return 412
    elif modified > _date(headers.get("If-Unmodified-Since"), default=modified):
        return 412
    if "If-None-Match" in headers:
        return 304 if names_etag(headers, "If-None-Match", etag, weak=True) else 200
    since = _date(headers.get("If-Modified-Since"), default=modified - 1)
    return 304 if modified <= since else 200


def _date(value: str | None, *, default: int) -> int:
    """Seconds since the epoch; `default` if missing or invalid."""
    try:
        return int(parsedate_to_datetime(value or "").timestamp())
    except (TypeError, ValueError, OverflowError):
        return default


def _asked_range(
    request: Request, etag: str, modified: int, size: int
) -> tuple[int, int] | None:
    """The first byte and the end of the range; None for the whole file.

    Several ranges in one request are answered with the whole file, and so is an invalid
    range (RFC 9110 §14.2 leaves that to the server).
    """
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if match is None or request.method != "GET":
        return None
    condition = request.headers.get("If-Range")
    if condition is not None and condition not in (etag, http_date(modified)):
        return None
    first, last = match.groups()
    if not first:
        return (max(0, size - int(last)), size) if last else None
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def _type_of(path: str) -> str:
    suffix = PurePath(path).suffix.lower()
    kind = _TYPES.get(suffix)
    if kind is None:
        # Only the end of the name: `guess_type` treats URLs specially.
        guessed, encoding = mimetypes.guess_type("file" + suffix)
        kind = guessed or "application/octet-stream"
        if encoding is not None:
            kind = _COMPRESSED.get(encoding, "application/octet-stream")
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    return kind


class _FilePart:
    """A part of an open file, piece by piece (`protocol.http_body.Source`)."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self._descriptor = descriptor
        self._left = length
        if start:
            os.lseek(descriptor, start, os.SEEK_SET)

    def read(self) -> bytes:
        """The next piece; b"" also when the file has become shorter."""
        piece = os.read(self._descriptor, min(_PIECE, self._left))
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
