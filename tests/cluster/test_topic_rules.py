"""What is special about a topic: the most specific rule, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from simple_ws import InvalidState, Server
from simple_ws.cluster.topic_rules import TopicRule, TopicRules

pytestmark = pytest.mark.one_backend


def test_most_specific_pattern_holds() -> None:
    rules = TopicRules(map(TopicRule, ["*", "room:*", "room:vip:*", "room:1", "a"]))
    topics = ["room:1", "room:12", "room:vip:1", "room:", "a", "b", ""]
    found = [rules.find(topic) for topic in topics]
    patterns = [rule and rule.pattern for rule in found]
    assert patterns == ["room:1", "room:*", "room:vip:*", "room:*", "a", "*", "*"]


def test_topic_without_a_rule() -> None:
    rules = TopicRules([TopicRule("room:*")])
    assert rules.find("game:1") is None
    assert rules
    assert not TopicRules()


@pytest.mark.parametrize("pattern", ["", "*a", "a*b", "**", "room:**"])
def test_malformed_patterns(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern must be a topic, or end with its"):
        TopicRules([TopicRule(pattern)])


def test_two_rules_for_one_pattern() -> None:
    for pattern in ("room:*", "room", "*"):
        rules = TopicRules([TopicRule(pattern)])
        with pytest.raises(ValueError, match="has a rule already"):
            rules.add(TopicRule(pattern))


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"history": -1}, ValueError, "history must be at least 0 messages, not -1"),
        ({"history": "9"}, TypeError, "history must be a whole number of messages"),
        ({"history": True}, TypeError, "history must be a whole number of messages"),
        ({"history": 10**9}, ValueError, "at most 4,194,304 messages, since max_buff"),
        ({"history": 9, "keep": 0}, ValueError, "keep must be more than 0 seconds"),
        ({"history": 9, "keep": "1"}, TypeError, "keep must be a number of seconds"),
        ({"keep": 60}, ValueError, "keep is for topics with history"),
        ({"presence": 1}, TypeError, "presence must be True or False, not 1"),
        ({"latest": "id"}, TypeError, r"latest, .* must be a function of \(msg\)"),
        ({"latest": lambda: 1}, TypeError, r"latest, .* must be a function of \(msg\)"),
        ({"max_subscribers": 0}, ValueError, "max_subscribers must be at least 1"),
        ({"pattern": 7}, TypeError, "pattern must be a str, not 7"),
    ],
)
def test_wrong_values(given: Any, error: Any, text: str) -> None:
    server = Server("127.0.0.1", 0)
    arguments = {"pattern": "room:*"} | given
    with pytest.raises(error, match=text):
        server.topic(**arguments)
    assert not server._topic_rules


def test_async_function_of_the_key() -> None:
    async def key(msg: object) -> None: ...

    with pytest.raises(TypeError, match="latest must not be async"):
        Server("127.0.0.1", 0).topic("room:*", latest=key)


def test_rules_are_set_before_the_server_runs() -> None:
    server = Server("127.0.0.1", 0)
    server.topic("room:*", history=5)
    server.start()
    try:
        with pytest.raises(InvalidState, match="before the server runs"):
            server.topic("game:*", history=5)
    finally:
        server.stop()


def test_digest_tells_what_nodes_must_agree_on() -> None:
    def digest(*rules: TopicRule) -> str:
        return TopicRules(rules).digest()

    kept, present = TopicRule("a*", 5, 60.0), TopicRule("p", presence=True)
    own = TopicRule("x", latest=True)
    assert digest() == digest(own) == ""
    assert digest(kept, present) == digest(present, own, kept) != ""
    others = [
        digest(kept),
        digest(TopicRule("a*", 6, 60.0), present),
        digest(TopicRule("a*", 5, None), present),
        digest(kept, present, TopicRule("ab")),  # it has no history
    ]
    assert len({digest(kept, present), *others}) == 5
