"""Layouts: how one reader's model sees a context, as turns and an open cue.

A layout decides where each kind of segment stands; it writes no markup and counts no tokens
(`template` and the engine do). Each is a function in `LAYOUTS`, with a version that changes
whenever its output does, since KV and logged replies are kept under it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import msgpack
from blake3 import blake3

from ..errors import LayoutError
from .segment import Context, Segment, SegmentKind

__all__ = [
    "LAYOUTS",
    "ROSTER_INTRODUCTION",
    "Layout",
    "Prompt",
    "Turn",
    "delivered_root",
    "find_layout",
    "role_first",
    "roster_first",
]

ROSTER_INTRODUCTION = (
    "Several agents work together in this conversation. Each of them is described below, under "
    "its name. An agent's message begins with its name and a colon. Write only the next message, "
    "as the agent whose name opens it, and follow that agent's description."
)
"""Opens the system turn of every roster-first prompt."""

_DEFAULT_AUTHORS: Mapping[SegmentKind, str] = MappingProxyType(
    {SegmentKind.DOCUMENT: "document", SegmentKind.USER: "user", SegmentKind.ASK: "user"}
)
_SECTION_JOINT = "\n\n"
_ROSTER_FIRST_VERSION = 1
_ROLE_FIRST_VERSION = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat template. A named turn reads `name:` and then the text, verbatim.

    So the text of a generated, named turn normally begins with a space.
    """

    role: str
    """`system`, `user` or `assistant`."""
    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one call's model reads.

    `cue` is an assistant turn with empty text: it opens the answer and names its speaker. It is
    the beginning of the same turn as it will stand in later prompts, so that the KV of a generated
    answer serves every later reader.
    """

    turns: tuple[Turn, ...]
    cue: Turn
    delivered_root: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to lay a context out, as `LAYOUTS` lists it."""

    name: str
    version: int
    per_reader: bool
    """The turns differ from reader to reader; otherwise only the cue does."""
    render: Callable[[Context, str], Prompt]
    """Takes the context and the name of the agent that speaks next."""


def _user_turn(segment: Segment) -> Turn:
    """Return the user turn of a segment, named if its author is not the usual one."""
    if segment.author in ("", _DEFAULT_AUTHORS.get(segment.kind)):
        return Turn("user", segment.text)
    return Turn("user", f" {segment.text.lstrip(' ')}", segment.author)


def roster_first(context: Context, reader: str) -> Prompt:
    """Lay a context out so that agents with different roles share all but the cue.

    One system turn holds a constant introduction and every role under its agent's name. The
    conversation follows in one perspective for all, the authors included: documents, the user's
    words and asks as user turns, agents' messages as assistant turns named by their author. The
    cue is an assistant turn named by the reader. What is appended after the roles only adds turns.

    Raises:
        LayoutError: a role was added after the conversation had begun.
    """
    roster = [ROSTER_INTRODUCTION]
    turns: list[Turn] = []
    for segment in context.segments():
        if segment.kind is SegmentKind.ROLE:
            if turns:
                raise LayoutError(
                    f"the role of {segment.author!r} was added after the conversation had begun, "
                    "where it would change what all agents have read; add all roles first, or "
                    "use the layout role_first"
                )
            roster.append(f"## {segment.author}{_SECTION_JOINT}{segment.text}")
        elif segment.kind is SegmentKind.MESSAGE:
            turns.append(Turn("assistant", segment.text, segment.author))
        else:
            turns.append(_user_turn(segment))
    system = Turn("system", _SECTION_JOINT.join(roster))
    root = delivered_root(context, "roster_first", _ROSTER_FIRST_VERSION)
    return Prompt((system, *turns), Turn("assistant", "", reader), root)


def role_first(context: Context, reader: str) -> Prompt:
    """Lay a context out as agent frameworks do, from the reader's own point of view.

    The system turn is the reader's own role only (none if it has no role). Its own messages are
    unnamed assistant turns; what others said are user turns, agents' named by their author. The
    cue is an unnamed assistant turn. No other agent's role is shown to the reader.
    """
    roles: list[str] = []
    turns: list[Turn] = []
    for segment in context.segments():
        if segment.kind is SegmentKind.ROLE:
            if segment.author == reader:
                roles.append(segment.text)
        elif segment.kind is SegmentKind.MESSAGE and segment.author == reader:
            turns.append(Turn("assistant", segment.text))
        else:
            turns.append(_user_turn(segment))
    if roles:
        turns.insert(0, Turn("system", _SECTION_JOINT.join(roles)))
    root = delivered_root(context, "role_first", _ROLE_FIRST_VERSION, reader=reader)
    return Prompt(tuple(turns), Turn("assistant", ""), root)


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "roster_first": Layout("roster_first", _ROSTER_FIRST_VERSION, False, roster_first),
        "role_first": Layout("role_first", _ROLE_FIRST_VERSION, True, role_first),
    }
)


def find_layout(name: str) -> Layout:
    """Return the layout of that name.

    Raises:
        LayoutError: there is none.
    """
    layout = LAYOUTS.get(name)
    if layout is None:
        raise LayoutError(f"there is no layout {name!r}; there are: {', '.join(LAYOUTS)}")
    return layout


def delivered_root(context: Context, layout: str, version: int, *, reader: str = "") -> bytes:
    """Name what a reader's model is given: the logical root, the layout and its version.

    The name is keyed by the tenant. `reader` counts only where the layout's turns depend on it.

    Raises:
        LayoutError: there is no such layout.
    """
    who = reader if find_layout(layout).per_reader else ""
    parts = ["delivered", context.root, layout, version, who]
    return blake3(msgpack.packb(parts), key=context.tenant.key).digest()
