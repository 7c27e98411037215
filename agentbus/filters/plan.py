"""Which filters a segment meets: rules as settings have them, and what of them one reader needs.

A plan travels with each request to a model, so it holds only what fits the reader, and names no
readers. The digest of a plan names the view of a context that it leads to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, get_args

import msgpack
from blake3 import blake3

from ..config import FilterName, FilterRule
from ..config.filter_rule import MAX_FILTER_NAME, MAX_FILTER_NAMES, MAX_FILTER_RULES
from ..context import Segment, SegmentKind
from ..errors import InvalidMessage
from ..routing import covers, covers_tokens

__all__ = [
    "FOR_A_QUERY",
    "LOSSLESS_NAMES",
    "LOSSY",
    "MASKING",
    "NOTHING",
    "STRIP",
    "Plan",
    "Rules",
    "Use",
    "check_plan",
    "plan_of",
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
_REMEMBERED = 4096
"""Kinds of one author each of which a plan remembers what it says."""


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
        if not rule.readers or any(covers(pattern, reader) for pattern in rule.readers)
    )


def _spelled(names: Iterable[str]) -> tuple[str, ...]:
    each = (LOSSLESS_NAMES if name == "lossless" else (name,) for name in names)
    return tuple(dict.fromkeys(name for some in each for name in some))


def check_plan(plan: Plan) -> None:
    """Check a plan that another process sent.

    Raises:
        InvalidMessage: it is too long, or names what is no filter.
    """
    if len(plan) > MAX_FILTER_RULES:
        raise InvalidMessage("filters", f"are {len(plan)} rules, over {MAX_FILTER_RULES}")
    for use in plan:
        if len(use.senders) > MAX_FILTER_NAMES or len(use.kinds) > MAX_FILTER_NAMES:
            raise InvalidMessage("filters", f"have over {MAX_FILTER_NAMES} names in one rule")
        if any(len(name) > MAX_FILTER_NAME for name in (*use.senders, *use.kinds)):
            raise InvalidMessage("filters", f"have a name of over {MAX_FILTER_NAME} characters")
        if len(use.use) > len(_KNOWN):
            raise InvalidMessage("filters", "name one twice")
        if unknown := [name for name in use.use if name not in _KNOWN]:
            raise InvalidMessage("filters", f"name {unknown[0]!r:.40}, which is none")
        if not 0 < use.keep < 1:
            raise InvalidMessage("filters", f"are to keep {use.keep} of a text")


class Rules:
    """A plan, as it is looked through for segments; what was found is remembered."""

    def __init__(self, plan: Plan, salt: str = "") -> None:
        self.view = view_of(plan, salt)
        """Names what the plan makes of contexts for calls of that salt."""
        self.masks = any(MASKING in use.use for use in plan)
        self.asks = any(FOR_A_QUERY in use.use for use in plan)
        self._plan = [(use, [sender.split(".") for sender in use.senders]) for use in plan]
        self._found: dict[tuple[SegmentKind, str], Use] = {}

    def use_for(self, segment: Segment) -> Use:
        """Return the first rule that fits, but what loses something in no kind that it does not name."""
        place = segment.kind, segment.author
        use = self._found.get(place)
        if use is None:
            if len(self._found) == _REMEMBERED:
                self._found.clear()
            use = self._found[place] = self._look(segment.kind, segment.author)
        return use

    def _look(self, kind: SegmentKind, author: str) -> Use:
        if kind not in _FILTERED:
            return NOTHING
        tokens = author.split(".")
        for use, senders in self._plan:
            named = kind.value in use.kinds
            sent = not senders or any(covers_tokens(sender, tokens) for sender in senders)
            if (named or not use.kinds) and sent:
                if named or kind in _LOSSY_KINDS:
                    return use
                return use._replace(use=tuple(name for name in use.use if name in _KEEPING))
        return NOTHING


def without_query(use: Use) -> Use:
    """Return a rule without what depends on a query."""
    return use._replace(use=tuple(name for name in use.use if name != FOR_A_QUERY))


def view_of(plan: Plan, salt: str = "") -> bytes:
    """Name what a plan makes of contexts; empty for one that leaves all as it is.

    Calls of two salts share nothing: not even how long it took tells one what the other has sent.
    """
    if not any(use.use for use in plan):
        return b""
    return blake3(msgpack.packb([plan, salt])).digest(8)
