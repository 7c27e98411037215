"""Layouts: how one reader's model sees a context, as turns and an open cue.

A layout decides where each kind of segment stands; it writes no markup and counts no tokens
(`template` and the engine do). Each is a function in `LAYOUTS`, with a version that changes
whenever its output does, since KV and logged replies are kept under it. Which one makes a team
prefill least is `choice`'s business.

No layout shows a private role to another agent than the one it is for, and none shows notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import msgpack
from blake3 import blake3

from ..errors import LayoutError
from .segment import Context, Segment, SegmentKind
from .tools import TOOLS_INTRODUCTION, merge_tools

__all__ = [
    "LAYOUTS",
    "REPLACES",
    "ROSTER_INTRODUCTION",
    "SHARED_INTRODUCTION",
    "Layout",
    "Part",
    "Prompt",
    "Turn",
    "delivered_root",
    "find_layout",
    "role_first",
    "roster_first",
    "shared_first",
    "turns_of",
]

ROSTER_INTRODUCTION = (
    "Several agents work together in this conversation. Each of them is described below, under "
    "its name. An agent's message begins with its name and a colon. Write only the next message, "
    "as the agent whose name opens it, and follow that agent's description."
)
"""Opens the system turn of every roster-first prompt."""
SHARED_INTRODUCTION = (
    "Several agents work together in this conversation. An agent's message begins with its name "
    "and a colon. The description of one agent comes at the end. Write only the next message, as "
    "the agent whose name opens it, and follow that description."
)
"""Opens the system turn of every shared-first prompt."""

REPLACES = "(This replaces what was said before.)"
"""Stands before what replaces an earlier segment, where that has to stay in the prompt."""

_DEFAULT_AUTHORS: Mapping[SegmentKind, str] = MappingProxyType(
    {SegmentKind.DOCUMENT: "document", SegmentKind.USER: "user", SegmentKind.ASK: "user"}
)
_JOINT = "\n\n"
_ROSTER_FIRST_VERSION = 1
_ROLE_FIRST_VERSION = 1
_SHARED_FIRST_VERSION = 1
_ROLES = (SegmentKind.ROLE, SegmentKind.PRIVATE_ROLE)
_STANDING = (*_ROLES, SegmentKind.TOOLS)
_SPOKEN = (SegmentKind.MESSAGE, SegmentKind.TOOL_CALL)


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
class Part:
    """A piece of a prompt that has a name of its own, as `lint` and `agentbus context` say it.

    System parts that follow each other are one turn. `text` is what the part adds to its turn.
    """

    name: str
    """Such as `introduction`, `role of writer`, `tools` or `message of writer`."""
    turn: Turn


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to lay a context out, as `LAYOUTS` lists it."""

    name: str
    version: int
    per_reader: bool
    """The turns differ from reader to reader; otherwise only the cue does."""
    parts: Callable[[Context, str], tuple[Part, ...]]
    """Takes the context and the name of the agent that speaks next."""
    named_cue: bool
    """The cue names its speaker, as every message in this layout does."""

    def render(self, context: Context, reader: str) -> Prompt:
        """Return what the model of `reader`, which speaks next, is given.

        Raises:
            LayoutError: the layout cannot show this context to this reader.
        """
        turns = turns_of(self.parts(context, reader))
        root = delivered_root(context, self.name, self.version, reader=reader)
        return Prompt(turns, Turn("assistant", "", reader if self.named_cue else ""), root)


def turns_of(parts: Iterable[Part]) -> tuple[Turn, ...]:
    """Return the turns that parts are: system parts in a row are one turn."""
    turns: list[Turn] = []
    for part in parts:
        turn = part.turn
        if turn.role == "system" and turns and turns[-1].role == "system":
            turns[-1] = Turn("system", turns[-1].text + _JOINT + turn.text)
        else:
            turns.append(turn)
    return tuple(turns)


def _name_of(segment: Segment) -> str:
    kind = segment.kind.value.replace("_", " ")
    if segment.author in ("", _DEFAULT_AUTHORS.get(segment.kind), kind):
        return kind
    return f"{kind} of {segment.author}"


def _said(segment: Segment) -> Part:
    """Return a segment of the conversation as all see it: in one perspective."""
    if segment.kind in _SPOKEN:
        return Part(_name_of(segment), Turn("assistant", _text(segment), segment.author))
    return _heard(segment)


def _heard(segment: Segment) -> Part:
    """Return a segment as a user turn, named if its author is not the usual one."""
    text = _text(segment)
    if segment.kind is SegmentKind.TOOL_RESULT:
        turn = Turn("user", f"<tool_response>\n{text}\n</tool_response>")
    elif segment.author in ("", _DEFAULT_AUTHORS.get(segment.kind)):
        turn = Turn("user", text)
    else:
        turn = Turn("user", f" {text.lstrip(' ')}", segment.author)
    return Part(_name_of(segment), turn)


def _text(segment: Segment) -> str:
    return f"{REPLACES}{_JOINT}{segment.text}" if segment.replaces else segment.text


def _shown(context: Context) -> list[Segment]:
    return [s for s in context.segments() if s.kind is not SegmentKind.NOTE]


def _talk(segments: Iterable[Segment]) -> list[Segment]:
    return [s for s in segments if s.kind not in _STANDING]


def _current(segments: Iterable[Segment]) -> list[Segment]:
    """Return segments without those that others among them replace."""
    listed = list(segments)
    replaced = {segment.replaces for segment in listed}
    return [segment for segment in listed if segment.digest not in replaced]


def _tools(segments: Iterable[Segment]) -> list[Part]:
    return [Part("tools", Turn("system", text)) for text in _union_of(segments)]


def _union_of(tools: Iterable[Segment]) -> list[str]:
    """Return the text of all tools together; nothing if there are none."""
    lists = [segment.text for segment in tools]
    if not lists:
        return []
    return [f"# Tools{_JOINT}{TOOLS_INTRODUCTION}{_JOINT}{merge_tools(lists)}"]


def _too_late(what: str, noun: str, layout: str) -> LayoutError:
    return LayoutError(
        f"{what} added after the conversation had begun, where it would change what all agents "
        f"have read in the layout {layout}; add all {noun} first, or use the layout role_first"
    )


def _role_text(role: Segment) -> str:
    return f"## {role.author}{_JOINT}{role.text}"


def _renewed(segment: Segment) -> Part:
    """Return a role or tools that replace earlier ones, where the head must stay as it is."""
    is_role = segment.kind is SegmentKind.ROLE
    text = _role_text(segment) if is_role else _union_of([segment])[0]
    return Part(_name_of(segment), Turn("user", f"{REPLACES}{_JOINT}{text}"))


def _in_roster(segment: Segment) -> Part:
    """Return a segment of the conversation, in which roles and tools can only be replaced."""
    if segment.kind not in _STANDING:
        return _said(segment)
    if segment.replaces:
        return _renewed(segment)
    if segment.kind is SegmentKind.TOOLS:
        raise _too_late("tools were", "tools", "roster_first")
    raise _too_late(f"the role of {segment.author!r} was", "roles", "roster_first")


def _roster_parts(context: Context, reader: str) -> tuple[Part, ...]:
    every = _shown(context)
    if any(s.kind is SegmentKind.PRIVATE_ROLE and s.author == reader for s in every):
        raise LayoutError(
            f"the role of {reader!r} is private, and roster_first shows all roles to all; "
            "use the layout shared_first or role_first"
        )
    segments = [s for s in every if s.kind is not SegmentKind.PRIVATE_ROLE]
    begun = _begun(segments)
    head = _current(segments[:begun])
    return (
        Part("introduction", Turn("system", ROSTER_INTRODUCTION)),
        *(
            Part(_name_of(role), Turn("system", _role_text(role)))
            for role in head
            if role.kind is SegmentKind.ROLE
        ),
        *_tools(tools for tools in head if tools.kind is SegmentKind.TOOLS),
        *map(_in_roster, segments[begun:]),
    )


def _begun(segments: Sequence[Segment]) -> int:
    """Return where the conversation begins, behind roles and tools."""
    places = (place for place, s in enumerate(segments) if s.kind not in _STANDING)
    return next(places, len(segments))


def _own(segments: Iterable[Segment], reader: str) -> tuple[list[Segment], list[Segment]]:
    """Return the roles and the tools of a reader, as they now are."""
    own = _current(s for s in segments if s.kind in _STANDING and s.author == reader)
    roles = [s for s in own if s.kind in _ROLES]
    return roles, [s for s in own if s.kind is SegmentKind.TOOLS]


def _role_parts(context: Context, reader: str) -> tuple[Part, ...]:
    segments = _shown(context)
    roles, _ = _own(segments, reader)
    listed = (s for s in segments if s.kind is SegmentKind.TOOLS and s.author in ("", reader))
    return (
        *(Part(f"role of {reader}", Turn("system", role.text)) for role in roles),
        *_tools(_current(listed)),
        *(_seen_by(reader, segment) for segment in _talk(segments)),
    )


def _seen_by(reader: str, segment: Segment) -> Part:
    if segment.kind in _SPOKEN and segment.author == reader:
        return Part(_name_of(segment), Turn("assistant", _text(segment)))
    return _heard(segment)


def _in_shared(segment: Segment) -> Part:
    if segment.kind is not SegmentKind.TOOLS:
        return _said(segment)
    if segment.replaces:
        return _renewed(segment)
    raise _too_late("tools for all were", "tools", "shared_first")


def _shared_parts(context: Context, reader: str) -> tuple[Part, ...]:
    every = _shown(context)
    roles, tools = _own(every, reader)
    segments = [
        s
        for s in every
        if s.kind not in _STANDING or (s.kind is SegmentKind.TOOLS and not s.author)
    ]
    begun = _begun(segments)
    talk = segments[begun:]
    asked = talk.pop() if talk and talk[-1].kind is SegmentKind.ASK else None
    return (
        Part("introduction", Turn("system", SHARED_INTRODUCTION)),
        *_tools(s for s in _current(segments[:begun]) if s.kind is SegmentKind.TOOLS),
        *map(_in_shared, talk),
        *(Part(f"role of {reader}", Turn("user", _role_text(role))) for role in roles),
        *(Part(f"tools of {reader}", Turn("user", text)) for text in _union_of(tools)),
        *([] if asked is None else [_said(asked)]),
    )


def roster_first(context: Context, reader: str) -> Prompt:
    """Lay a context out so that agents with different roles share all but the cue.

    One system turn holds a constant introduction, every role under its agent's name, and the union
    of all tools. The conversation follows in one perspective for all, the authors included:
    documents, the user's words, asks and tools' results as user turns, agents' messages and tool
    calls as assistant turns named by their author. The cue is an assistant turn named by the
    reader. What is appended after the roles only adds turns. Private roles are left out for all.
    A role or tools that replace earlier ones (`Context.supersede`) are said in the conversation,
    and the earlier ones stay in the head, until `Context.compacted`.

    Raises:
        LayoutError: a role or tools were added after the conversation had begun, or the reader's
            role is private.
    """
    return LAYOUTS["roster_first"].render(context, reader)


def role_first(context: Context, reader: str) -> Prompt:
    """Lay a context out as agent frameworks do, from the reader's own point of view.

    The system turn is the reader's own role only, and the tools that it may call (none if it has
    neither), as they now are. Its own messages are unnamed assistant turns; what others said are user turns,
    agents' named by their author. The cue is an unnamed assistant turn. No other agent's role is
    shown to the reader.
    """
    return LAYOUTS["role_first"].render(context, reader)


def shared_first(context: Context, reader: str) -> Prompt:
    """Lay a context out so that agents share all that was said, also where roles are private.

    A system turn holds a constant introduction and the tools for all; the conversation follows as
    in roster_first; then, for this reader alone, its role and its own tools as user turns, and the
    ask if the context ends in one. The next prompt goes on where the conversation ended: role and
    ask are prefilled at each turn. No other agent's role is shown to the reader.

    Raises:
        LayoutError: tools for all were added after the conversation had begun.
    """
    return LAYOUTS["shared_first"].render(context, reader)


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            Layout("roster_first", _ROSTER_FIRST_VERSION, False, _roster_parts, True),
            Layout("role_first", _ROLE_FIRST_VERSION, True, _role_parts, False),
            Layout("shared_first", _SHARED_FIRST_VERSION, True, _shared_parts, True),
        )
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
