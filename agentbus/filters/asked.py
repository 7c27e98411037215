"""What is asked about the segments of a context, as far as that is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ..context import Context, SegmentKind

__all__ = ["NOT_ASKED", "Asked", "asked_about", "is_settling"]

_QUESTIONS: Final = (SegmentKind.ASK, SegmentKind.USER)
_WRITTEN: Final = (SegmentKind.MESSAGE, SegmentKind.TOOL_CALL)
"""What models write, once they were given what stands before."""


class Asked(NamedTuple):
    """What is asked about one segment."""

    before: str
    """The latest question up to it; empty if there is none."""
    query: str
    """The question that follows before a model writes; `before` if none does."""
    is_settled: bool
    """Whatever is appended, `query` stays."""


NOT_ASKED: Final = Asked("", "", is_settled=False)


def is_settling(node: Context) -> bool:
    """Say whether a context's last segment settles what is asked about those before it."""
    return node.last is not None and node.last.kind in (*_QUESTIONS, *_WRITTEN)


def asked_about(nodes: Sequence[Context]) -> list[Asked]:
    """Return what is asked about the last segment of each of contexts, each made from the one before.

    Takes time linear in the longest of them.
    """
    asked = [Asked(before, before, is_settled=False) for before in _before(nodes)]
    ahead: str | None = None
    is_settled = False
    for place in range(len(nodes) - 1, -1, -1):
        before = asked[place].before
        asked[place] = Asked(before, before if ahead is None else ahead, is_settled)
        if is_settling(nodes[place]):
            ahead, is_settled = _question(nodes[place]), True
    return asked


def _before(nodes: Sequence[Context]) -> list[str]:
    """Return the latest question up to each."""
    ancestors = nodes[0].ancestors() if nodes else ()
    latest = next(filter(None, map(_question, ancestors)), "")
    found = []
    for node in nodes:
        latest = _question(node) or latest
        found.append(latest)
    return found


def _question(node: Context) -> str | None:
    """Return what a context's last segment asks; None where it asks nothing."""
    return node.last.text if node.last and node.last.kind in _QUESTIONS else None
