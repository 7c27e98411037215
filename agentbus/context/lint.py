"""Prefix lint: where a prompt leaves what was cached, why, and how many tokens that cost.

A prompt is compared, part by part, with those delivered before it; the one that it shares most
with is the one that a prefix cache would have used. What stood in that prompt behind the place
where the new one leaves it is said again and prefilled again: it is lost. Nothing here reads a
clock or a model: tokens are counted by what the caller gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .layout import Part, Prompt, Turn, turns_of
from .prefixes import RecentPrompts, common_length
from .template import Template
from .tools import TOOLS_INTRODUCTION, same_tools

__all__ = [
    "MAX_REMEMBERED",
    "Cause",
    "Finding",
    "Linter",
    "TokenCounter",
    "prompt_parts",
    "text_parts",
]

TokenCounter = Callable[[str], int]
"""Counts the tokens of a text."""

MAX_REMEMBERED = 256
"""Prompts that a linter compares with, the latest."""

_TIMES = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"
    r"|\b\d{1,2}:\d\d(?::\d\d)?(?:\s?[AaPp][Mm])?\b"
    r"|\b(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?\b"
    r"|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.? \d{1,2}(?:, \d{4})?"
    r"|\b\d{1,2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*(?: \d{4})?"
)
_IDENTIFIERS = re.compile(
    r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b|\b[0-9a-fA-F]{12,}\b|\b\d{10,19}\b"
    r"|\b(?:call|req|run|chatcmpl|msg|session|trace)[-_][0-9A-Za-z]{6,}"
)
_PARAGRAPH = re.compile(r"(?<=\n\n)(?=[^\n])")
_EXCERPT = 60


class Cause(StrEnum):
    """Why a prompt leaves what was cached."""

    FIRST = "nothing to compare with"
    EXTENDED = "extends what was cached"
    ROLE = "role changed"
    TOOLS = "tools changed"
    TOOLS_REWRITTEN = "same tools, written otherwise"
    VOLATILE = "time or identifier in the text"
    REORDERED = "order changed"
    REMOVED = "left out"
    INSERTED = "put in before what was said"
    EDITED = "text changed"
    UNRELATED = "shares nothing"
    TEMPLATE = "template is not append-only"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one prompt shares with the best of those before it. All counts are of tokens."""

    cause: Cause
    segment: str
    """Name of the first part that differs; empty if none does."""
    detail: str
    """In plain words; empty if there is nothing to say."""
    tokens: int
    """Tokens of the prompt, without its cue."""
    shared: int
    """How many of them stand in front of the first difference."""
    lost: int
    """How many behind it stood in the other prompt too, and are computed again."""
    against: int | None
    """Number of the prompt compared with, in the order of grading; None for the first."""


def text_parts(text: str) -> tuple[Part, ...]:
    """Return a prompt of which only the text is known, in paragraphs, named by their lines."""
    parts: list[Part] = []
    line = 1
    for paragraph in _PARAGRAPH.split(text) if text else ():
        breaks = paragraph.count("\n")
        last = line + len(paragraph.rstrip("\n").splitlines()) - 1
        name = f"lines {line} to {last}" if last > line else f"line {line}"
        parts.append(Part(name, Turn("user", paragraph)))
        line += breaks
    return tuple(parts)


def prompt_parts(prompt: Prompt) -> tuple[Part, ...]:
    """Return a prompt of which the layout is not known, named by its turns. Its cue is no part."""
    return tuple(
        Part(f"turn {number} ({turn.role}{f' {turn.name}' if turn.name else ''})", turn)
        for number, turn in enumerate(prompt.turns, start=1)
    )


@dataclass(frozen=True, slots=True)
class _Fork:
    """Where two prompts part: behind `index` whole parts, and `inner` characters of the next."""

    number: int
    new: tuple[Part, ...]
    old: tuple[Part, ...]
    index: int
    inner: int
    size: int
    """Characters in front of it."""

    @classmethod
    def of(cls, number: int, new: tuple[Part, ...], old: tuple[Part, ...]) -> _Fork:
        index = size = inner = 0
        for one, other in zip(new, old, strict=False):
            if one.turn != other.turn:
                break
            index += 1
            size += len(one.turn.text)
        if index < min(len(new), len(old)):
            one_turn, other_turn = new[index].turn, old[index].turn
            if (one_turn.role, one_turn.name) == (other_turn.role, other_turn.name):
                inner = common_length(one_turn.text, other_turn.text)
        return cls(number, new, old, index, inner, size + inner)

    @property
    def leaves_nothing(self) -> bool:
        """One prompt is the beginning of the other."""
        return self._covers(self.old) or self._covers(self.new)

    def _covers(self, parts: tuple[Part, ...]) -> bool:
        if self.index == len(parts):
            return True
        return self.index == len(parts) - 1 and self.inner == len(parts[-1].turn.text) > 0


class Linter:
    """Grades the prompts of one cache, in the order in which they were delivered.

    It compares with the latest `MAX_REMEMBERED` prompts. With a `template` that is not
    append-only, it also says where rendering a longer prompt changes the shorter one's text.
    """

    def __init__(self, count: TokenCounter, *, template: Template | None = None) -> None:
        self._count = count
        self._template = template if template is not None and not template.append_only else None
        self._known = RecentPrompts(MAX_REMEMBERED)
        self._graded = 0

    def grade(self, parts: Sequence[Part]) -> Finding:
        """Compare a prompt with those before, then remember it.

        Raises:
            LayoutError: the template cannot render it.
        """
        new = tuple(parts)
        if self._known:
            number, old = self._known.nearest(new)
            finding = self._find(_Fork.of(number, new, old))
        else:
            finding = self._first(new)
        if new:
            self._known.add(self._graded, new)
        self._graded += 1
        return finding

    def _first(self, parts: tuple[Part, ...]) -> Finding:
        tokens = sum(self._count(part.turn.text) for part in parts)
        return Finding(Cause.FIRST, "", "", tokens, 0, 0, None)

    def _find(self, fork: _Fork) -> Finding:
        counts = [self._count(part.turn.text) for part in fork.new]
        shared = sum(counts[: fork.index])
        if fork.inner:
            shared += self._count(fork.new[fork.index].turn.text[: fork.inner])
        if fork.leaves_nothing:
            extended = Finding(
                Cause.EXTENDED, "", "", sum(counts), min(shared, sum(counts)), 0, fork.number
            )
            return extended if self._template is None else self._rendered(fork, extended)
        cause, name, detail = _difference(fork)
        lost = min(sum(map(self._count, _repeated(fork))), max(sum(counts) - shared, 0))
        if not fork.size and not lost:
            cause, name, detail = Cause.UNRELATED, "", ""
        return Finding(cause, name, detail, sum(counts), shared, lost, fork.number)

    def _rendered(self, fork: _Fork, finding: Finding) -> Finding:
        """Look whether the template renders what was there before as it did."""
        assert self._template is not None
        cue = Turn("assistant", "")
        new, old = (
            self._template.render(Prompt(turns_of(parts), cue), cue=False)
            for parts in (fork.new, fork.old)
        )
        kept = common_length(new, old)
        if kept == min(len(new), len(old)):
            return finding
        lost = min(self._count(old[kept:]), finding.shared)
        return Finding(
            Cause.TEMPLATE,
            _part_at(fork.old, old[:kept]),
            f"the chat template {self._template.problem}",
            finding.tokens,
            finding.shared - lost,
            lost,
            fork.number,
        )


def _part_at(parts: tuple[Part, ...], rendered: str) -> str:
    """Name the first part whose text is not whole in a rendered beginning."""
    place = 0
    for part in parts:
        found = rendered.find(part.turn.text, place)
        if found < 0:
            return part.name
        place = found + len(part.turn.text)
    return parts[-1].name if parts else ""


def _repeated(fork: _Fork) -> list[str]:
    """Return the texts behind the fork that stood in the other prompt too."""
    new, old = ([part.turn.text for part in parts[fork.index :]] for parts in (fork.new, fork.old))
    whole = set(old[1:]) | {old[0][fork.inner :]}
    behind = [old[0][fork.inner :], *old[1:]]
    lines = {line for text in behind for line in text.splitlines() if line.strip()}
    found = [_known_lines(text, whole, lines) for text in new[1:]]
    rest = new[0][fork.inner :]
    return [rest if new[0] in whole else _known_lines(rest, whole, lines), *found]


def _known_lines(text: str, whole: set[str], lines: set[str]) -> str:
    if text in whole:
        return text
    kept = text.splitlines(keepends=True)
    return "".join(line for line in kept if line.rstrip("\r\n") in lines)


def _difference(fork: _Fork) -> tuple[Cause, str, str]:
    """Return why two prompts part, at which part, and a sentence about it."""
    new, old = fork.new[fork.index :], fork.old[fork.index :]
    one, other = new[0], old[0]
    moved_in = other.turn in {part.turn for part in new[1:]}
    moved_out = one.turn in {part.turn for part in old[1:]}
    if moved_in and moved_out:
        return Cause.REORDERED, one.name, f"stood behind what was {other.name}"
    if moved_out:
        return Cause.REMOVED, other.name, f"stood in front of {one.name} before"
    if moved_in:
        return Cause.INSERTED, one.name, f"stands in front of what was {other.name}"
    return _edit(one, other, fork.inner)


def _edit(one: Part, other: Part, inner: int) -> tuple[Cause, str, str]:
    lines = _line_at(one.turn.text, inner), _line_at(other.turn.text, inner)
    line = one.turn.text.count("\n", 0, inner) + 1
    where = f", in its line {line}" if line > 1 else ""
    for pattern in (_TIMES, _IDENTIFIERS):
        if lines[0] != lines[1] and pattern.sub("\0", lines[0]) == pattern.sub("\0", lines[1]):
            found = zip(pattern.findall(lines[0]), pattern.findall(lines[1]), strict=False)
            now, was = next((pair for pair in found if pair[0] != pair[1]), ("", ""))
            return Cause.VOLATILE, one.name, f"{was!r} became {now!r}{where}; keep it out, or last"
    if one.name.startswith("role of ") and other.name.startswith("role of "):
        if one.name != other.name:
            return Cause.ROLE, one.name, f"stands where {other.name} stood: readers share no prefix"
        return Cause.ROLE, one.name, _shown(lines, where)
    if one.name.startswith("tools") and other.name.startswith("tools"):
        same = same_tools(*(p.turn.text.rpartition(TOOLS_INTRODUCTION)[2] for p in (one, other)))
        advice = "write them with canonical_tools" if same else _shown(lines, where)
        return Cause.TOOLS_REWRITTEN if same else Cause.TOOLS, one.name, advice
    if (one.turn.role, one.turn.name) != (other.turn.role, other.turn.name):
        return Cause.EDITED, one.name, f"stands where {other.name} stood"
    return Cause.EDITED, one.name, _shown(lines, where)


def _shown(lines: tuple[str, str], where: str) -> str:
    start = max(0, common_length(*lines) - _EXCERPT // 2)
    now, was = (_excerpt(line, start) for line in lines)
    return f"{was!r} became {now!r}{where}"


def _excerpt(line: str, start: int) -> str:
    end = start + _EXCERPT
    return f"{'…' if start else ''}{line[start:end]}{'…' if end < len(line) else ''}"


def _line_at(text: str, place: int) -> str:
    start = text.rfind("\n", 0, place) + 1
    end = text.find("\n", place)
    return text[start:] if end < 0 else text[start:end]
