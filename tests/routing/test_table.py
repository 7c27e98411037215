from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentbus.routing import SubscriptionTable

TOKENS = ["a", "b", "c"]
patterns = st.builds(
    lambda body, rest: ".".join([*body, *rest]),
    st.lists(st.sampled_from([*TOKENS, "*"]), min_size=1, max_size=3),
    st.sampled_from([[], [">"]]),
)
topics = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=4).map(".".join)


def matches(pattern: str, topic: str) -> bool:
    """Decide token by token, the slow way."""
    wanted, given_tokens = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(given_tokens) <= len(wanted):
            return False
        given_tokens = given_tokens[: len(wanted)]
    return len(wanted) == len(given_tokens) and all(
        w in ("*", g) for w, g in zip(wanted, given_tokens, strict=True)
    )


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), patterns), max_size=30), topics)
def test_agrees_with_the_slow_way(steps: list[tuple[bool, int, str]], topic: str) -> None:
    table: SubscriptionTable[int] = SubscriptionTable()
    held: list[tuple[int, str]] = []
    for adds, subscriber, pattern in steps:
        if adds:
            assert table.add(pattern, subscriber) == ((subscriber, pattern) not in held)
            held.append((subscriber, pattern))
        else:
            last = held.count((subscriber, pattern)) == 1
            assert table.remove(pattern, subscriber) == last
            if (subscriber, pattern) in held:
                held.remove((subscriber, pattern))
    expected = {subscriber for subscriber, pattern in held if matches(pattern, topic)}
    found = table.match(topic)
    assert set(found) == expected
    assert len(found) == len(expected)
    for subscriber in range(4):
        assert table.patterns(subscriber) == {p for s, p in held if s == subscriber}
        for _, _, pattern in steps:
            assert table.count(pattern, subscriber) == held.count((subscriber, pattern))


@given(st.lists(st.tuples(st.integers(0, 2), patterns), max_size=20))
def test_remove_all_leaves_nothing_behind(entries: list[tuple[int, str]]) -> None:
    table: SubscriptionTable[int] = SubscriptionTable()
    for subscriber, pattern in entries:
        table.add(pattern, subscriber)
    for subscriber in range(3):
        table.remove_all(subscriber)
    assert not table._root.children
    assert not table._root.rest
