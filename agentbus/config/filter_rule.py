"""Which texts are made smaller before models read them, and how."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ConfigError
from .checks import STRICT

__all__ = [
    "MAX_FILTER_NAME",
    "MAX_FILTER_NAMES",
    "MAX_FILTER_RULES",
    "FilterName",
    "FilterRule",
    "FilteredKind",
]

FilterName = Literal[
    "lossless", "json", "yaml", "fold", "dedupe", "diff", "strip", "offload", "extract", "mask"
]
FilteredKind = Literal["document", "user", "ask", "message", "summary", "tool_result"]
_FILTERS = get_args(FilterName)
_FILTERED = get_args(FilteredKind)
MAX_FILTER_RULES = 64
MAX_FILTER_NAMES = 64
"""Names of one rule, of each sort."""
MAX_FILTER_NAME = 128
"""Characters of one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterRule:
    """What is made smaller before models of this process's agents read it, and how.

    Of several rules the first that fits holds. In what it does not name it fits all.
    """

    __pydantic_config__ = STRICT

    use: tuple[FilterName, ...]
    """`lossless` is json, fold, dedupe and diff, of which nothing is lost; nor is it by `yaml`.
    `strip` leaves out colour codes and trailing space, `offload` the middle of large texts,
    `extract` what has least to do with the question, `mask` all results of tools but the last ten,
    once that pays; they say in the text what they left out. Of extract and offload, the first that
    a text is for. None leaves texts as they are."""
    senders: tuple[str, ...] = ()
    """Who wrote it: names of agents, tools, documents, and of topics from which it was taken, with
    `*` for one part between dots and `>` for the rest."""
    readers: tuple[str, ...] = ()
    """Agents whose models read it, likewise."""
    kinds: tuple[FilteredKind, ...] = ()
    """Kinds of segments. Without any, filters that lose something are for documents and tools'
    results alone."""
    keep: float = 0.3
    """The share of a text's tokens that `extract` leaves."""

    def __post_init__(self) -> None:
        for what in ("use", "senders", "readers", "kinds"):
            names: object = getattr(self, what)
            if not isinstance(names, tuple):
                raise ConfigError(what, f"must be a tuple of names, not {names!r:.80}")
        _check_names("use", self.use, _FILTERS)
        _check_names("kinds", self.kinds, _FILTERED)
        _check_patterns("senders", self.senders)
        _check_patterns("readers", self.readers)
        if "mask" in self.use and self.kinds and "tool_result" not in self.kinds:
            raise ConfigError("kinds", "must have tool_result, which is what mask is for")
        if not (isinstance(self.keep, int | float) and 0 < self.keep < 1):
            raise ConfigError("keep", f"must be between 0 and 1, not {self.keep!r:.80}")


def _check_names(what: str, names: tuple[str, ...], known: Collection[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(what, f"must be of {', '.join(known)}, not {unknown[0]!r:.80}")
    if len(set(names)) < len(names):
        raise ConfigError(what, "names one twice")


def _check_patterns(what: str, patterns: tuple[str, ...]) -> None:
    if len(patterns) > MAX_FILTER_NAMES or not all(map(_is_pattern, patterns)):
        most = f"must be up to {MAX_FILTER_NAMES} names"
        wild = "`*` stands for one part between dots, `>` at the end for the rest"
        raise ConfigError(what, f"{most}; {wild}")


def _is_pattern(pattern: object) -> bool:
    if not (isinstance(pattern, str) and 0 < len(pattern) <= MAX_FILTER_NAME):
        return False
    *body, last = pattern.split(".")
    return all(part == "*" or not {"*", ">"} & set(part) for part in body) and (
        last in ("*", ">") or not {"*", ">"} & set(last)
    )
