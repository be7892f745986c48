"""RESP: both readers read the same, in bytes cut anywhere, and never raise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.cluster import resp
from simple_ws.cluster.resp import (
    MAX_BULK,
    ErrorReply,
    HiredisReader,
    PythonReader,
    encode_command,
    new_reader,
)

pytestmark = pytest.mark.one_backend

Maker = Callable[[], resp.ReplyReader]


def hiredis_reader() -> resp.ReplyReader:
    pytest.importorskip("hiredis")
    return HiredisReader()


MAKERS = [PythonReader, hiredis_reader]


@pytest.fixture(params=MAKERS, ids=["python", "hiredis"])
def make(request: pytest.FixtureRequest) -> Maker:
    return request.param


def plain(item: Any, push: type) -> Any:
    """A reply as it can be compared: pushes are tuples, errors their text."""
    if type(item) is push:
        return tuple(plain(each, push) for each in item)
    if isinstance(item, list):
        return [plain(each, push) for each in item]
    return ("error", item.text) if isinstance(item, ErrorReply) else item


def read(reader: resp.ReplyReader, *chunks: bytes) -> list[Any]:
    items = itertools.chain.from_iterable(map(reader.receive, chunks))
    return [plain(item, reader.push) for item in items]


REPLIES = [
    (b"+OK\r\n", [b"OK"]),
    (b"+\r\n", [b""]),
    (b"-NOPERM no\r\n", [("error", "NOPERM no")]),
    (b"-\xff\r\n", [("error", "\ufffd")]),
    (b":0\r\n:-7\r\n:9223372036854775807\r\n", [0, -7, 2**63 - 1]),
    (b"$0\r\n\r\n", [b""]),
    (b"$4\r\na\r\nb\r\n", [b"a\r\nb"]),
    (b"$-1\r\n*-1\r\n_\r\n", [None, None, None]),
    (b"#t\r\n#f\r\n", [True, False]),
    (b",1.5\r\n,-inf\r\n", [1.5, -math.inf]),
    (b"(123456789012345678901234567890\r\n", [b"123456789012345678901234567890"]),
    (b"=7\r\ntxt:abc\r\n", [b"abc"]),
    (b"*0\r\n", [[]]),
    (b"*2\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n", [[b"a", [1, None]]]),
    (b"~2\r\n:1\r\n:2\r\n", [[1, 2]]),
    (b"%0\r\n", [{}]),
    (b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n", [{b"a": 1, b"b": [2]}]),
    (b"*1\r\n-ERR x\r\n", [[("error", "ERR x")]]),
    (
        b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$3\r\nx\r\n\r\n",
        [(b"message", b"c", b"x\r\n")],
    ),
    (
        b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
        b">3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n",
        [(b"subscribe", b"c", 1), (b"unsubscribe", b"c", 0)],
    ),
    (b">3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n", [(b"unsubscribe", None, 0)]),
    (b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n", [(b"invalidate", [b"k"])]),
    # As EXEC sends it: not one of the two.
    (
        b"*2\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n:2\r\n:3\r\n",
        [(b"message", b"c", b"x"), [1, 2], 3],
    ),
    (b"*2\r\n*2\r\n:1\r\n>1\r\n+p\r\n:2\r\n:3\r\n:4\r\n", [(b"p",), [[1, 2], 3], 4]),
    (b"*1\r\n>1\r\n+p\r\n>1\r\n+q\r\n:1\r\n*0\r\n", [(b"p",), (b"q",), [1], []]),
]
IDS = [repr(data[:24])[2:-1] for data, _ in REPLIES]


@pytest.mark.parametrize(("data", "replies"), REPLIES, ids=IDS)
def test_replies(make: Maker, data: bytes, replies: list[Any]) -> None:
    assert read(make(), data) == replies
    assert read(make(), data + b"+OK\r\n:1\r\n") == [*replies, b"OK", 1]


@pytest.mark.parametrize(("data", "replies"), REPLIES, ids=IDS)
def test_replies_byte_by_byte(make: Maker, data: bytes, replies: list[Any]) -> None:
    reader = make()
    assert read(reader, *(data[i : i + 1] for i in range(len(data)))) == replies
    assert read(reader, b"+OK\r\n") == [b"OK"]


MALFORMED = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\r\n",
    b"?1\r\n",
    b"$-2\r\n",
    b"$+1\r\na\r\n",
    b"$x\r\n",
    b"$?\r\n",
    b"$ 1\r\na\r\n",
    b"*?\r\n",
    b"*99999999999999\r\n",
    b":\r\n",
    b":+1\r\n",
    b":1_0\r\n",
    b":99999999999999999999\r\n",
    b"(1x\r\n",
    b"#x\r\n",
    b",x\r\n",
    b"_x\r\n",
    b"+a\rb\r\n",
    b"=2\r\nab\r\n",
    b"%1\r\n*0\r\n+a\r\n",
    b"*1\r\n" * 33 + b":1\r\n",
]


@pytest.mark.parametrize("data", MALFORMED, ids=repr)
def test_malformed_bytes_are_a_problem_after_what_came_before(
    make: Maker, data: bytes
) -> None:
    reader = make()
    assert read(reader, b"+OK\r\n" + data) == [b"OK"]
    assert reader.problem
    assert read(reader, b"+OK\r\n") == []


@pytest.mark.parametrize(
    "data",
    [
        b"$1\r\nab\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nxy\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\ncc\r\n$1\r\nx\r\n",
        b"$%d\r\n" % (MAX_BULK + 1),
        b"*%d\r\n" % (2**20 + 1),
        b"+" + b"x" * 65536,
        b"|1\r\n+a\r\n+b\r\n+c\r\n",
        b"$0001234567890\r\n",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_python_reads_more_strictly(data: bytes) -> None:
    reader = PythonReader()
    assert read(reader, data) == []
    assert reader.problem


def test_limits_are_inclusive() -> None:
    data = b"$%d\r\n%b\r\n" % (MAX_BULK, bytes(MAX_BULK))
    (reply,) = PythonReader().receive(data)
    assert len(reply) == MAX_BULK
    reader = PythonReader()
    assert read(reader, b"*1\r\n" * 32 + b":1\r\n") != []
    assert reader.problem is None
    assert read(reader, b"+" + b"x" * 60000 + b"\r\n") == [b"x" * 60000]


def test_an_endless_reply_is_not_kept(make: Maker) -> None:
    reader = make()
    reader.receive(b"$%d\r\n" % (MAX_BULK + 1))
    piece = bytes(2**22)
    for _ in range(MAX_BULK // len(piece) + 1):
        assert reader.receive(piece) == []
    assert reader.problem


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.binary(),
        st.text("abc \u00e9").map(ErrorReply),
    ),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)
pushes = st.lists(st.one_of(st.binary(), st.integers(0, 9)), min_size=1, max_size=4)
messages = st.tuples(st.just(b"message"), st.binary(max_size=12), st.binary())
changes = st.tuples(
    st.sampled_from([b"subscribe", b"unsubscribe"]), st.binary(), st.integers(0, 99)
)
items = st.lists(st.one_of(values, messages, changes, pushes.map(tuple)), max_size=8)


def written(value: Any) -> bytes:
    if isinstance(value, ErrorReply):
        return b"-%b\r\n" % value.text.encode()
    if isinstance(value, list | tuple):
        head = b"*" if isinstance(value, list) else b">"
        return head + b"%d\r\n%b" % (len(value), b"".join(map(written, value)))
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    if value is None:
        return b"_\r\n"
    if isinstance(value, bool):
        return b"#t\r\n" if value else b"#f\r\n"
    return b":%d\r\n" % value


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


places = st.lists(st.integers(0, 2**16), max_size=6)


@pytest.mark.parametrize("maker", MAKERS)
@given(items=items, places=places)
def test_what_is_written_is_read(maker: Maker, items: Any, places: list[int]) -> None:
    reader = maker()
    data = b"".join(map(written, items))
    assert read(reader, *cut(data, places)) == [plain(item, tuple) for item in items]
    assert reader.problem is None


pieces = st.sampled_from(
    (
        b"* % > ~ $ : + - = ! | _ #t \r\n 0 1 3 -1 a txt: message subscribe \xff "
        b"$1\r\na\r\n :1\r\n >3\r\n$7\r\nmessage\r\n"
    ).split(b" ")
)
garbage = st.one_of(st.binary(), st.lists(pieces, max_size=30).map(b"".join))


@pytest.mark.parametrize("maker", MAKERS)
@given(data=garbage, places=places)
def test_garbage_never_raises(maker: Maker, data: bytes, places: list[int]) -> None:
    reader = maker()
    read(reader, *cut(data, places))


@given(data=garbage, places=places)
def test_cuts_change_nothing(data: bytes, places: list[int]) -> None:
    whole, parts = PythonReader(), PythonReader()
    assert read(parts, *cut(data, places)) == read(whole, data)
    assert parts.problem == whole.problem


def test_errors_have_a_code() -> None:
    assert ErrorReply("NOPERM no channel").code == "NOPERM"
    assert ErrorReply().text == ""


def test_commands() -> None:
    assert encode_command(b"PING") == b"*1\r\n$4\r\nPING\r\n"
    assert encode_command(b"ECHO", b"\r\n") == b"*2\r\n$4\r\nECHO\r\n$2\r\n\r\n\r\n"


def test_hiredis_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hiredis")
    assert isinstance(new_reader(), HiredisReader)
    monkeypatch.setattr(resp, "_hiredis", None)
    assert isinstance(new_reader(), PythonReader)
    monkeypatch.setitem(__import__("sys").modules, "hiredis", None)
    assert resp._import_hiredis() is None
