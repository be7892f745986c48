"""Finding the handler of a path."""

from __future__ import annotations

import re
import sys
import threading
import timeit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.http.routing import Router, check_pattern, routing_path

pytestmark = pytest.mark.one_backend


def router(*patterns: str) -> Router[str]:
    """Each pattern leads to itself."""
    made: Router[str] = Router()
    for pattern in patterns:
        made.add(pattern, pattern)
    return made


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/", ("/", {})),
        ("/chat", ("/chat", {})),
        ("/chat/", ("*", {})),
        ("/Chat", ("*", {})),
        ("/chat/lobby", ("/chat/lobby", {})),
        ("/chat/den", ("/chat/{room}", {"room": "den"})),
        ("/chat/a b/é", ("*", {})),
        ("/chat/é", ("/chat/{room}", {"room": "é"})),
        ("/chat/{room}", ("/chat/{room}", {"room": "{room}"})),
        ("/chat/a\nb", ("/chat/{room}", {"room": "a\nb"})),
        ("/u/7/post/8", ("/u/{user}/post/{id}", {"user": "7", "id": "8"})),
        ("/u/7/post/", ("*", {})),
        ("/u//post/8", ("*", {})),
        ("/file/a.tar.gz", ("/file/{name}.gz", {"name": "a.tar"})),
        ("/file/a.tarXgz", ("*", {})),
        ("/file/.gz", ("*", {})),
        ("*", ("*", {})),
        ("", ("*", {})),
    ],
)
def test_exact_before_parameters_before_the_rest(
    path: str, found: tuple[str, dict[str, str]]
) -> None:
    patterns = ["*", "/chat/{room}", "/chat/lobby", "/", "/chat"]
    patterns += ["/u/{user}/post/{id}", "/file/{name}.gz"]
    assert router(*patterns).find(path) == found
    assert router(*reversed(patterns)).find(path) == found


def test_nothing_is_found_where_nothing_is() -> None:
    assert router().find("/") is None
    assert router("/chat", "/chat/{room}").find("/chat/a/b") is None


def test_of_two_patterns_the_first_counts() -> None:
    assert router("/{a}/x", "/y/{b}").find("/y/x") == ("/{a}/x", {"a": "y"})
    assert router("/y/{b}", "/{a}/x").find("/y/x") == ("/y/{b}", {"b": "x"})


def test_targets_are_all_there_are() -> None:
    assert router("*", "/a", "/{b}").targets() == ["/a", "/{b}", "*"]
    assert router("/a").targets() == ["/a"]


def test_a_false_target_is_a_target() -> None:
    made: Router[int] = Router()
    made.add("*", 0)
    assert made.find("/") == (0, {})
    with pytest.raises(ValueError, match="mounted already"):
        made.add("*", 1)


@pytest.mark.parametrize("pattern", ["/", "/a", "/{a}", "*"])
def test_path_is_mounted_once(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"path .* is mounted already"):
        router(pattern, pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "chat",
        "**",
        "{room}",
        "/{",
        "/}",
        "/{a",
        "/a}",
        "/{}",
        "/{a b}",
        "/{1}",
        "/{a}/{a}",
        "/{a}{",
        "/{{a}}",
    ],
)
def test_malformed_pattern_is_named(pattern: str) -> None:
    with pytest.raises(ValueError, match="path ") as caught:
        router(pattern)
    assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize("pattern", [None, b"/", 5])
def test_pattern_is_a_string(pattern: object) -> None:
    with pytest.raises(TypeError, match="path must be a str, not"):
        router(pattern)  # type: ignore[arg-type]


@given(pattern=st.text(alphabet="/ab{}*.", max_size=8), path=st.text(max_size=8))
def test_only_documented_errors_escape(pattern: str, path: str) -> None:
    made: Router[str] = Router()
    try:
        made.add(pattern, "x")
    except ValueError:
        return
    assert made.find(path) is None or made.find(path) == ("x", made.find(path)[1])  # type: ignore[index]


@given(st.text(min_size=1).filter(lambda text: "/" not in text))
def test_parameter_takes_anything_but_a_slash(value: str) -> None:
    assert router("/a/{b}/c").find(f"/a/{value}/c") == ("/a/{b}/c", {"b": value})


# --- Types ---------------------------------------------------------------------------

UUID_TEXT = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("str", "a-b.c", "a-b.c"),
        ("int", "0", 0),
        ("int", "007", 7),
        ("int", "-12", -12),
        ("int", "9" * 18, int("9" * 18)),
        ("float", "2", 2.0),
        ("float", "-0.5", -0.5),
        ("uuid", UUID_TEXT, UUID(UUID_TEXT)),
        ("uuid", UUID_TEXT.upper(), UUID(UUID_TEXT)),
        ("path", "a", "a"),
        ("path", "a/b//c/", "a/b//c/"),
        ("path", "/", "/"),
        ("path", "a\nb", "a\nb"),
    ],
)
def test_type_makes_a_value_of_the_text(kind: str, text: str, value: object) -> None:
    found = router(f"/x/{{y:{kind}}}").find(f"/x/{text}")
    assert found == (f"/x/{{y:{kind}}}", {"y": value})
    assert found is not None
    assert type(found[1]["y"]) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("str", ""),
        ("str", "a/b"),
        ("int", ""),
        ("int", "-"),
        ("int", "1.0"),
        ("int", "+1"),
        ("int", " 1"),
        ("int", "1\n"),
        ("int", "1_000"),
        ("int", "٣"),  # a digit for `int`, and for \d
        ("int", "9" * 19),
        ("int", "0x10"),
        ("float", "nan"),
        ("float", "inf"),
        ("float", "1e5"),
        ("float", "1."),
        ("float", ".5"),
        ("float", "1.2.3"),
        ("uuid", UUID_TEXT[:-1]),
        ("uuid", UUID_TEXT.replace("-", "")),
        ("uuid", "{" + UUID_TEXT + "}"),
        ("path", ""),
    ],
)
def test_text_that_is_not_of_the_type_is_another_path(kind: str, text: str) -> None:
    assert router(f"/x/{{y:{kind}}}", "*").find(f"/x/{text}") == ("*", {})


def test_parameters_of_several_types_stand_in_one_pattern() -> None:
    pattern = "/{a}/{b:int}/v{c:float}/{d:path}"
    assert router(pattern).find("/x/2/v3.5/y/z") == (
        pattern,
        {"a": "x", "b": 2, "c": 3.5, "d": "y/z"},
    )


def test_rest_of_a_path_may_begin_behind_text() -> None:
    assert router("/go-{where:path}").find("/go-to/a/b") == (
        "/go-{where:path}",
        {"where": "to/a/b"},
    )


def test_patterns_that_differ_by_type_are_tried_in_their_order() -> None:
    made = router("/u/{id:int}", "/u/{id:uuid}", "/u/{name}")
    assert made.find("/u/5") == ("/u/{id:int}", {"id": 5})
    assert made.find(f"/u/{UUID_TEXT}") == ("/u/{id:uuid}", {"id": UUID(UUID_TEXT)})
    assert made.find("/u/ann") == ("/u/{name}", {"name": "ann"})
    assert router("/u/{name}", "/u/{id:int}").find("/u/5") == (
        "/u/{name}",
        {"name": "5"},
    )


# --- Prefixes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/files/a", "/files/*"),
        ("/files/a/b", "/files/*"),
        ("/files/", "/files/*"),
        ("/files", "/files/*"),
        ("/files/img/a", "/files/img/*"),
        ("/files/img", "/files/img/*"),
        ("/files/images", "/files/*"),
        ("/files/exact", "/files/exact"),
        ("/files/7", "/files/{id:int}"),
        ("/filesystem", "*"),
        ("/Files/a", "*"),
    ],
)
def test_exact_then_parameters_then_the_longest_prefix(path: str, found: str) -> None:
    patterns = ["*", "/files/*", "/files/img/*", "/files/{id:int}", "/files/exact"]
    for order in (patterns, patterns[::-1]):
        result = router(*order).find(path)
        assert result is not None
        assert result[0] == found


def test_prefix_of_everything_comes_before_the_rest() -> None:
    made = router("*", "/*")
    assert made.find("/") == ("/*", {})
    assert made.find("/a/b") == ("/*", {})
    assert made.find("no path") == ("*", {})


def test_pattern_is_got_back_by_its_text() -> None:
    patterns = ["/", "/a", "/{b}", "/{b}/{c:int}", "/d/*", "*"]
    made = router(*patterns)
    assert [made.get(pattern) for pattern in patterns] == patterns
    assert made.get("/{c}") is None
    assert made.get("/e/*") is None
    assert len(made) == len(patterns)


# --- What is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/a/*", "/a/*"),
        ("/{a}", "/{b}"),
        ("/{a}", "/{b:str}"),
        ("/x/{a:int}/y", "/x/{b:int}/y"),
        ("/{a:path}", "/{b:path}"),
    ],
)
def test_pattern_that_takes_what_another_takes_is_refused(
    first: str, second: str
) -> None:
    with pytest.raises(ValueError, match=r"mounted already|takes what") as caught:
        router(first, second)
    assert repr(second) in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("/{a}/{a}", "each once"),
        ("/{class!}", "must be a Python name"),
        ("/{a}{b}", "several parameters"),
        ("/{a}-{b}", "several parameters"),
        ("/{a:}", "must be one of str, int, float, uuid, path, not ''"),
        ("/{a:Int}", "must be one of str, int, float, uuid, path, not 'Int'"),
        ("/{a: int}", "not ' int'"),
        ("/{a:path}/b", "must be at the end"),
        ("/{a:path}b", "must be at the end"),
        ("/{a:int:str}", "not 'int:str'"),
        ("/{a/b}", "brace is not closed"),
        ("/{a}/*", "use {name} or {name:path}"),
        ("/a/*/b", "'*' must be alone"),
        ("/a*", "'*' must be alone"),
        ("/*/*", "'*' must be alone"),
        ("/chat?room=1", "no part of a path"),
        ("/chat#top", "no part of a path"),
    ],
)
def test_refusal_of_a_pattern_says_what_is_wrong(pattern: str, words: str) -> None:
    made: Router[str] = Router()
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        made.add(pattern, "x")
    assert repr(pattern) in str(caught.value)
    assert len(made) == 0


# --- Hostile paths -------------------------------------------------------------------

HOSTILE = router(
    "/chat/{room}.html",
    "/a-{b}-c/{d:int}/e",
    "/f/{g:float}",
    "/u/{v:uuid}",
    "/{w}/{x}/{y}/{z:path}",
    "/long/prefix/*",
)


@pytest.mark.parametrize(
    "unit",
    ["/chat/" + "." * 50, "/a-" + "-c" * 25, "1.", "/f/" + "9" * 50, "0f8fad5b-", "//"],
)
def test_hostile_path_takes_linear_time(unit: str) -> None:
    """Sixteen times the path takes about sixteen times as long, and not 256 times."""

    def seconds(size: int) -> float:
        path = "/" + unit * (size // len(unit)) + "!"
        return min(timeit.repeat(lambda: HOSTILE.find(path), number=1, repeat=5))

    small, large = seconds(20_000), seconds(320_000)
    assert large < 100 * small + 0.01


def test_path_may_be_looked_up_while_another_thread_adds_to_the_router() -> None:
    made = router("/first/*", "/x/{y}", "*")
    failures: list[BaseException] = []
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                assert made.find("/first/a") == ("/first/*", {})
                assert made.find("/other") == ("*", {})
                made.targets()
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in range(200):
            made.add(f"/p{number}/*", f"/p{number}/*")
            made.add(f"/e{number}", f"/e{number}")
            made.add(f"/q{number}/{{y}}", "pattern")
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert failures == []


# --- Percent-encoding, and the patterns of others -------------------------------------


@pytest.mark.parametrize(
    ("asked", "room"),
    [
        ("a%2Fb", "a/b"),
        ("a%2fb", "a/b"),
        ("%2F", "/"),
        ("a%2Fb%20c%2F", "a/b c/"),
        ("a%20b", "a b"),
        ("a%3Fb", "a?b"),
        ("%C3%BC", "ü"),
        ("%C3%BC%2F", "ü/"),
        ("a%25b", "a%b"),
        ("a%252Fb", "a%2Fb"),
        ("a+b", "a+b"),
        ("%ED%B0%AF", "\ufffd\ufffd\ufffd"),  # what stands for the slash, encoded
    ],
)
def test_segments_are_split_before_they_are_decoded(asked: str, room: str) -> None:
    found = router("/chat/{room}", "*").find(routing_path(f"/chat/{asked}"))
    assert found == ("/chat/{room}", {"room": room})


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("/files/a%2Fb/c", ("/files/{page:path}", {"page": "a/b/c"})),
        ("/files%2Fa", ("*", {})),
        ("/game%2Fx", ("*", {})),
        ("/game/x%2Fy", ("/game/*", {})),
        ("/a%2Fb", ("*", {})),
        ("/u/7%2F8", ("*", {})),
    ],
)
def test_encoded_slash_ends_no_segment(
    asked: str, found: tuple[str, dict[str, str]]
) -> None:
    patterns = "/files/{page:path}", "/game/*", "/a/b", "/u/{id:int}", "*"
    assert router(*patterns).find(routing_path(asked)) == found


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("/chat/<room>", "write {room} instead of <room>"),
        ("/user/<int:id>", "write {id:int} instead of <int:id>"),
        ("/user/<string:name>/x", "write {name} instead of <string:name>"),
        ("/wiki/<path:page>", "write {page:path} instead of <path:page>"),
        ("/chat/:room", "write {room} instead of :room"),
        ("/chat/:room/users", "write {room} instead of :room"),
        ("/chat/:room?", "write {room} instead of :room"),
        (r"/chat/:id(\d+)", "write {id} instead of :id"),
        ("/chat/(?P<room>[^/]+)", r"write {room} instead of (?P<room>"),
    ],
)
def test_parameters_of_other_frameworks_are_refused_with_a_hint(
    pattern: str, hint: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        check_pattern(pattern)
    with pytest.raises(ValueError, match=re.escape(hint)):
        router().add(pattern, pattern)


@pytest.mark.parametrize("path", ["/a:b", "/v1/notes:search", "/a<b", "/1:2/3", "/x/:"])
def test_what_only_looks_like_a_parameter_is_a_path(path: str) -> None:
    check_pattern(path)
    assert router(path).find(path) == (path, {})
