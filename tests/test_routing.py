"""Which handler a path belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.routing import Router


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
