"""Who subscribed to what: patterns in a trie, subscribers as opaque values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["SubscriptionTable"]

S = TypeVar("S")


class _Node(Generic[S]):
    __slots__ = ("children", "rest", "subscribers")

    def __init__(self) -> None:
        self.children: dict[str, _Node[S]] = {}
        self.subscribers: dict[S, int] = {}
        self.rest: dict[S, int] = {}


_REMEMBERED = 4096
"""Topics whose subscribers are remembered."""


class SubscriptionTable(Generic[S]):
    """Subscribers by pattern. Patterns and topics are checked by `names` before they come here.

    One subscriber may hold several patterns, and one pattern several times; a topic reaches it
    once. Order is that of subscribing, pattern by pattern.
    """

    __slots__ = ("_matches", "_root")

    def __init__(self) -> None:
        self._root: _Node[S] = _Node()
        self._matches: dict[str, tuple[S, ...]] = {}
        """What `match` found since something last changed."""

    def add(self, pattern: str, subscriber: S) -> bool:
        """Subscribe. Returns whether the pattern is new to this subscriber."""
        self._matches.clear()
        holders = self._holders(pattern.split("."))
        holders[subscriber] = holders.get(subscriber, 0) + 1
        return holders[subscriber] == 1

    def remove(self, pattern: str, subscriber: S) -> bool:
        """Unsubscribe once. Returns whether the subscriber let go of the pattern altogether."""
        self._matches.clear()
        holders = self._holders(pattern.split("."))
        count = holders.get(subscriber, 0)
        if count > 1:
            holders[subscriber] = count - 1
            return False
        holders.pop(subscriber, None)
        _prune(self._root)
        return count == 1

    def count(self, pattern: str, subscriber: S) -> int:
        """Return how often a subscriber holds a pattern."""
        node: _Node[S] | None = self._root
        *body, last = pattern.split(".")
        for token in body if last == ">" else (*body, last):
            node = None if node is None else node.children.get(token)
        if node is None:
            return 0
        return (node.rest if last == ">" else node.subscribers).get(subscriber, 0)

    def remove_all(self, subscriber: S) -> None:
        """Unsubscribe from everything."""
        self._matches.clear()
        for node in _walk(self._root):
            node.subscribers.pop(subscriber, None)
            node.rest.pop(subscriber, None)
        _prune(self._root)

    def matched(self, topic: str) -> tuple[S, ...] | None:
        """Return what `match` found for this topic, if nothing has changed since."""
        return self._matches.get(topic)

    def match(self, topic: str) -> tuple[S, ...]:
        """Return each subscriber with a pattern that matches `topic`, once."""
        if len(self._matches) >= _REMEMBERED:
            self._matches.clear()
        matches = self._matches[topic] = tuple(self._find(topic))
        return matches

    def _find(self, topic: str) -> dict[S, None]:
        found: dict[S, None] = {}
        nodes = [self._root]
        for token in topic.split("."):
            following = []
            for node in nodes:
                found.update(dict.fromkeys(node.rest))
                following += [node.children[t] for t in (token, "*") if t in node.children]
            nodes = following
        for node in nodes:
            found.update(dict.fromkeys(node.subscribers))
        return found

    def patterns(self, subscriber: S) -> set[str]:
        """Return the patterns that a subscriber holds."""
        return {pattern for pattern, who in _entries(self._root, ()) if who == subscriber}

    def _holders(self, tokens: list[str]) -> dict[S, int]:
        node = self._root
        *body, last = tokens
        for token in body:
            node = node.children.setdefault(token, _Node())
        if last == ">":
            return node.rest
        return node.children.setdefault(last, _Node()).subscribers


def _walk(node: _Node[S]) -> Iterator[_Node[S]]:
    yield node
    for child in node.children.values():
        yield from _walk(child)


def _entries(node: _Node[S], path: tuple[str, ...]) -> Iterator[tuple[str, S]]:
    for subscriber in node.subscribers:
        yield ".".join(path), subscriber
    for subscriber in node.rest:
        yield ".".join((*path, ">")), subscriber
    for token, child in node.children.items():
        yield from _entries(child, (*path, token))


def _prune(node: _Node[S]) -> bool:
    """Drop empty branches; returns whether this one is empty."""
    for token in [token for token, child in node.children.items() if _prune(child)]:
        del node.children[token]
    return not (node.children or node.subscribers or node.rest)
