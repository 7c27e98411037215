"""Which filters a segment meets: rules as settings have them, and what of them one reader needs.

A plan travels with each request to a model, so it holds only what fits the reader, and names no
readers. The digest of a plan names the view of a context that it leads to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, get_args

import msgpack
from blake3 import blake3

from ..config import MAX_FILTER_RULES, FilterName, FilterRule
from ..context import Segment, SegmentKind
from ..errors import InvalidMessage
from ..routing import covers

__all__ = [
    "FOR_A_QUERY",
    "LOSSLESS_NAMES",
    "LOSSY",
    "MASKING",
    "NOTHING",
    "STRIP",
    "Plan",
    "Use",
    "check_plan",
    "plan_of",
    "use_for",
    "view_of",
    "without_query",
]

STRIP: Final = "strip"
LOSSY: Final = frozenset(["offload", "extract"])
"""Filters that leave out what a reader may miss; what they write is not compressed again."""
FOR_A_QUERY: Final = "extract"
"""Leaves out what has least to do with what is asked."""
MASKING: Final = "mask"
"""Leaves old results of tools out, in an epoch."""
LOSSLESS_NAMES: Final = ("json", "fold", "dedupe", "diff")
"""What `lossless` stands for."""
_KEEPING = frozenset([*LOSSLESS_NAMES, "yaml"])
"""Filters of which nothing is lost."""

_KNOWN = frozenset(get_args(FilterName))
_FILTERED = frozenset(
    {
        SegmentKind.DOCUMENT,
        SegmentKind.USER,
        SegmentKind.ASK,
        SegmentKind.MESSAGE,
        SegmentKind.SUMMARY,
        SegmentKind.TOOL_RESULT,
    }
)
"""Calls of tools are not: a model would write the next one as it reads the last."""
_LOSSY_KINDS = frozenset({SegmentKind.DOCUMENT, SegmentKind.TOOL_RESULT})


class Use(NamedTuple):
    """What a rule says, to one reader."""

    senders: tuple[str, ...]
    kinds: tuple[str, ...]
    use: tuple[str, ...]
    keep: float


Plan = tuple[Use, ...]
"""Rules in the order in which they are looked through."""
NOTHING: Final = Use((), (), (), 0.0)
"""What is said of segments that no rule fits."""


def plan_of(rules: Iterable[FilterRule], reader: str) -> Plan:
    """Return what the rules say to one reader, in their order; `lossless` is spelled out."""
    return tuple(
        Use(rule.senders, rule.kinds, _spelled(rule.use), rule.keep)
        for rule in rules
        if _fits(rule.readers, reader)
    )


def _spelled(names: Iterable[str]) -> tuple[str, ...]:
    each = (LOSSLESS_NAMES if name == "lossless" else (name,) for name in names)
    return tuple(dict.fromkeys(name for some in each for name in some))


def _fits(patterns: tuple[str, ...], name: str) -> bool:
    return not patterns or any(covers(pattern, name) for pattern in patterns)


def check_plan(plan: Plan) -> None:
    """Check a plan that another process sent.

    Raises:
        InvalidMessage: it is too long, or names what is no filter.
    """
    if len(plan) > MAX_FILTER_RULES:
        raise InvalidMessage("filters", f"are {len(plan)} rules, over {MAX_FILTER_RULES}")
    for use in plan:
        if unknown := [name for name in use.use if name not in _KNOWN]:
            raise InvalidMessage("filters", f"name {unknown[0]!r:.40}, which is none")
        if not 0 <= use.keep < 1:
            raise InvalidMessage("filters", f"are to keep {use.keep} of a text")


def use_for(plan: Plan, segment: Segment) -> Use:
    """Return what a plan says of a segment: the first that fits, but what loses in no other kind."""
    if segment.kind not in _FILTERED:
        return NOTHING
    for use in plan:
        named = segment.kind.value in use.kinds
        if (named or not use.kinds) and _fits(use.senders, segment.author):
            if named or segment.kind in _LOSSY_KINDS:
                return use
            return use._replace(use=tuple(name for name in use.use if name in _KEEPING))
    return NOTHING


def without_query(use: Use) -> Use:
    """Return a rule without what depends on a query."""
    return use._replace(use=tuple(name for name in use.use if name != FOR_A_QUERY))


def view_of(plan: Plan) -> bytes:
    """Name what a plan makes of contexts; empty for one that leaves all as it is."""
    return blake3(msgpack.packb(plan)).digest(8) if any(use.use for use in plan) else b""
