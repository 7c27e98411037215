"""How much of a prompt its owner's last one had too, but in another place, where no cache finds it.

The cheap side of `lint`, for every call: it remembers whole turns by their hashes, compares one
prompt with one, and counts characters. `lint` says which part it was, and why.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from .layout import Turn

__all__ = ["LastPrompts"]


class LastPrompts:
    """The last prompt of each owner, at most `limit`, the least recently seen forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._last: OrderedDict[Hashable, tuple[int, ...]] = OrderedDict()

    def repeated(self, owner: Hashable, turns: Sequence[Turn]) -> float:
        """Return the share of a prompt's characters that is said again; remember the prompt.

        These are whole turns that stood in the owner's last prompt, too, behind the place where
        the new one leaves it. 0 if it extends the last one, or there was none.
        """
        new = tuple(map(hash, turns))
        last = self._last.get(owner, ())
        self._last[owner] = new
        self._last.move_to_end(owner)
        if len(self._last) > self._limit:
            self._last.popitem(last=False)
        common = 0
        while common < min(len(new), len(last)) and new[common] == last[common]:
            common += 1
        known = set(last[common:])
        rest = zip(turns[common:], new[common:], strict=True)
        again = sum(len(turn.text) for turn, name in rest if name in known)
        return again / sum(len(turn.text) for turn in turns) if again else 0.0
