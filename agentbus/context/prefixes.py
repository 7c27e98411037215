"""The latest prompts, as a tree of their parts: which of them another one shares most with.

Adding and looking up take time in proportion to the prompt, not to how many are remembered.
"""

from __future__ import annotations

from collections.abc import Iterator

from .layout import Part, Turn

__all__ = ["RecentPrompts", "common_length"]


def common_length(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class _Node:
    """Where prompts that begin with the same turns go on."""

    __slots__ = ("children", "latest")

    def __init__(self) -> None:
        self.children: dict[Turn, _Node] = {}
        self.latest = 0
        """The newest of the prompts that come by here."""


class RecentPrompts:
    """Prompts by number, at most `limit`, the oldest forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._root = _Node()
        self._prompts: dict[int, tuple[Part, ...]] = {}

    def __len__(self) -> int:
        return len(self._prompts)

    def add(self, number: int, parts: tuple[Part, ...]) -> None:
        """Remember a prompt under a number that is higher than all before."""
        self._prompts[number] = parts
        node = self._root
        node.latest = number
        for part in parts:
            child = node.children.get(part.turn)
            if child is None:
                child = node.children[part.turn] = _Node()
            node = child
            node.latest = number
        if len(self._prompts) > self._limit:
            self._forget(next(iter(self._prompts)))

    def nearest(self, parts: tuple[Part, ...]) -> tuple[int, tuple[Part, ...]]:
        """Return the number and the parts of the prompt that shares the longest beginning.

        The newest of equals; where none shares any, that with the most parts in common. There is
        at least one prompt.
        """
        node, depth = self._root, 0
        while depth < len(parts) and parts[depth].turn in node.children:
            node = node.children[parts[depth].turn]
            depth += 1
        number = node.latest
        if depth < len(parts):
            found = max(_inside(node, parts[depth].turn), default=(0, number))
            if found[0]:
                number = found[1]
            elif not depth:
                number = self._most_alike(parts)
        return number, self._prompts[number]

    def _most_alike(self, parts: tuple[Part, ...]) -> int:
        turns = {part.turn for part in parts}
        return max(
            self._prompts,
            key=lambda number: (sum(p.turn in turns for p in self._prompts[number]), number),
        )

    def _forget(self, number: int) -> None:
        node = self._root
        for part in self._prompts.pop(number):
            if node.children[part.turn].latest == number:
                del node.children[part.turn]
                return
            node = node.children[part.turn]


def _inside(node: _Node, turn: Turn) -> Iterator[tuple[int, int]]:
    """Yield how much of a turn's text the turns at a node begin with, and their newest prompts."""
    for other, child in node.children.items():
        if (other.role, other.name) == (turn.role, turn.name):
            yield common_length(other.text, turn.text), child.latest
