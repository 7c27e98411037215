"""Transcripts of chat completions (OpenAI's `messages`) as contexts, and back.

Each message becomes segments by itself, whatever follows it, so that a transcript that has grown
becomes a context that extends the one before: the roots are the same, and only what is new is sent
and prefilled. What segments cannot say (a `developer` for a `system`, ids of calls, parts that are
no text) stands in a note before them, which no model reads; so importing and exporting gives the
same messages. Reading files is for others.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import InvalidMessage, TranscriptError
from . import canonical
from .segment import Context, Segment, SegmentKind, TenantKey
from .tools import canonical_tools, merge_tools, read_call, write_call
from .transcript_notes import joined_text, read_note, restored, write_note

__all__ = [
    "DEFAULT_AGENT",
    "MAX_CALLS",
    "MAX_MESSAGES",
    "MAX_NAME",
    "MAX_PARTS",
    "MAX_TEXT",
    "Transcript",
    "export_transcript",
    "import_transcript",
]

DEFAULT_AGENT = "assistant"
"""The agent that a transcript's assistant is, unless it is said."""
MAX_MESSAGES = 100_000
"""Messages of one transcript."""
MAX_TEXT = 16 * 1024 * 1024
"""Characters of one message's content, and of one call's arguments."""
MAX_NAME = 256
"""Characters of a name, or of a call's id."""
MAX_CALLS = 1024
"""Tool calls of one message."""
MAX_PARTS = 4096
"""Parts of one message's content."""

Message = dict[str, Any]
Row = tuple[SegmentKind, str, str]

_NOTE_AUTHOR = "transcript"
_ASSISTANT = (SegmentKind.MESSAGE, SegmentKind.TOOL_CALL)
_USUAL_AUTHORS: Mapping[SegmentKind, str] = MappingProxyType(
    {SegmentKind.USER: "user", SegmentKind.ASK: "user", SegmentKind.DOCUMENT: "document"}
)


class Transcript(NamedTuple):
    """What a chat completion is asked with."""

    messages: list[Message]
    tools: list[Message]


def import_transcript(
    messages: Sequence[Mapping[str, Any]],
    *,
    start: Context,
    agent: str = DEFAULT_AGENT,
    tools: str | bytes | Sequence[Mapping[str, Any]] = (),
) -> Context:
    """Append a transcript to `start`, normally an empty context.

    System and developer messages become roles of `agent`, or of whom they name; the assistant's
    become messages and tool calls of `agent`, or of whom they name. Importing `messages[:n + k]`
    extends importing `messages[:n]`.

    Raises:
        TranscriptError: a message is not one of chat completions; the error names its place.
        ToolSchemaError: `tools` is no list of tools.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise TranscriptError("messages", "not a list")
    if len(messages) > MAX_MESSAGES:
        raise TranscriptError("messages", f"{len(messages)} are over the limit of {MAX_MESSAGES}")
    context = start
    if tools:
        context = context.tools(tools, agent=agent)
    importer = _Importer(context, agent)
    for number, message in enumerate(messages):
        importer.add(message, f"messages[{number}]")
    return importer.context


@dataclass(slots=True)
class _Importer:
    context: Context
    agent: str
    tools: dict[str, str] = field(default_factory=dict)
    """The tool that each call asks, by the call's id."""

    def add(self, message: Any, place: str) -> None:
        rows = self._rows(message, place)
        try:
            segments = [self.context.tenant.segment(*row) for row in rows]
            note = write_note(_plain(segments, self.agent), message, [row[0] for row in rows])
            canonical.check(message)
        except InvalidMessage as error:
            raise TranscriptError(place, error.problem) from error
        except (ValueError, TypeError, RecursionError) as error:
            raise TranscriptError(place, f"holds what is not JSON: {error}") from error
        if note:
            self.context = self.context.note(note, author=_NOTE_AUTHOR)
        for segment in segments:
            self.context = self.context.append(segment)

    def _rows(self, message: Any, place: str) -> list[Row]:
        if not isinstance(message, dict):
            raise TranscriptError(place, "not an object")
        if not all(isinstance(key, str) for key in message):
            raise TranscriptError(place, "a key is not a text")
        role = message.get("role")
        if not isinstance(role, str) or role not in _IMPORTS:
            raise TranscriptError(f"{place}.role", f"not one of {', '.join(_IMPORTS)}")
        if "function_call" in message:
            raise TranscriptError(f"{place}.function_call", "replaced by tool_calls; write those")
        if "tool_calls" in message and role != "assistant":
            raise TranscriptError(f"{place}.tool_calls", f"a message of role {role} makes no calls")
        name = _optional(message, "name", place)
        return _IMPORTS[role](self, message, name, place)

    def _system(self, message: Message, name: str, place: str) -> list[Row]:
        return [(SegmentKind.ROLE, name or self.agent, _content(message, place))]

    def _user(self, message: Message, name: str, place: str) -> list[Row]:
        return [(SegmentKind.USER, name or "user", _content(message, place))]

    def _assistant(self, message: Message, name: str, place: str) -> list[Row]:
        speaker = name or self.agent
        text = "" if message.get("content") is None else _content(message, place)
        calls = self._calls(message.get("tool_calls"), speaker, f"{place}.tool_calls")
        said = [(SegmentKind.MESSAGE, speaker, text)] if text or not calls else []
        return [*said, *calls]

    def _calls(self, calls: Any, speaker: str, place: str) -> list[Row]:
        if calls is None:
            return []
        if not isinstance(calls, list):
            raise TranscriptError(place, "not a list")
        if len(calls) > MAX_CALLS:
            raise TranscriptError(place, f"{len(calls)} are over the limit of {MAX_CALLS}")
        rows: list[Row] = []
        for number, call in enumerate(calls):
            here = f"{place}[{number}]"
            if not isinstance(call, dict) or call.get("type", "function") != "function":
                raise TranscriptError(here, "not a call of a function")
            function = call.get("function")
            if not isinstance(function, dict) or set(function) - {"name", "arguments"}:
                raise TranscriptError(f"{here}.function", "not a name and arguments")
            tool = _required(function, "name", f"{here}.function")
            arguments = _bounded(function.get("arguments"), f"{here}.function.arguments")
            self.tools[_required(call, "id", here)] = tool
            rows.append((SegmentKind.TOOL_CALL, speaker, write_call(tool, arguments)))
        return rows

    def _tool(self, message: Message, name: str, place: str) -> list[Row]:
        asked = _required(message, "tool_call_id", place)
        if asked not in self.tools:
            raise TranscriptError(f"{place}.tool_call_id", "no earlier message makes this call")
        return [(SegmentKind.TOOL_RESULT, self.tools[asked], _content(message, place))]


_IMPORTS: Mapping[str, Callable[[_Importer, Message, str, str], list[Row]]] = MappingProxyType(
    {
        "system": _Importer._system,
        "developer": _Importer._system,
        "user": _Importer._user,
        "assistant": _Importer._assistant,
        "tool": _Importer._tool,
    }
)


def _bounded(value: Any, place: str, limit: int = MAX_TEXT) -> str:
    if not isinstance(value, str):
        raise TranscriptError(place, "missing, or not a text")
    if len(value) > limit:
        raise TranscriptError(place, f"{len(value)} characters are over the limit of {limit}")
    return value


def _required(values: Mapping[str, Any], key: str, place: str) -> str:
    value = _bounded(values.get(key), f"{place}.{key}", MAX_NAME)
    if not value:
        raise TranscriptError(f"{place}.{key}", "empty")
    return value


def _optional(values: Mapping[str, Any], key: str, place: str) -> str:
    return "" if values.get(key) is None else _required(values, key, place)


def _content(message: Mapping[str, Any], place: str) -> str:
    """Return what a model reads of a message's content."""
    place = f"{place}.content"
    content = message.get("content")
    if not isinstance(content, list):
        return _bounded(content, place)
    if len(content) > MAX_PARTS:
        raise TranscriptError(place, f"{len(content)} parts are over the limit of {MAX_PARTS}")
    for number, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise TranscriptError(f"{place}[{number}]", "not an object with a type")
        if part["type"] == "text":
            _bounded(part.get("text"), f"{place}[{number}].text")
        _bounded(part["type"], f"{place}[{number}].type", MAX_NAME)
    return _bounded(joined_text(content), place)


def export_transcript(context: Context, *, agent: str = DEFAULT_AGENT) -> Transcript:
    """Return a context as the transcript of `agent`.

    What was imported comes back as it was. Of another context, roles become system messages,
    agents' messages and calls those of an assistant, all else the user's, with the author's name
    where it is not the usual one; private roles of others than `agent` are left out.

    Raises:
        ToolSchemaError: its tools are no list of tools, or two lists disagree about one.
    """
    segments = [
        s for s in context.segments() if s.kind is not SegmentKind.PRIVATE_ROLE or s.author == agent
    ]
    lists = [s.text for s in segments if s.kind is SegmentKind.TOOLS and s.author in ("", agent)]
    said = [s for s in segments if s.kind is not SegmentKind.TOOLS]
    tools = json.loads(canonical_tools(merge_tools(lists))) if lists else []
    return Transcript(_messages(said, agent), tools)


def _messages(said: Sequence[Segment], agent: str) -> list[Message]:
    found: list[Message] = []
    calls = _Calls()
    place = 0
    while place < len(said):
        segment = said[place]
        if segment.kind is SegmentKind.NOTE:
            message, place = _noted(said, place, agent)
        else:
            count = _grouped(said, place)
            message = _with_ids(_plain(said[place : place + count], agent), segment, calls)
            place += count
        if message:
            found.append(message)
            calls.take(message)
    return found


class _Calls:
    """The calls of a transcript, and which of them wait for a result."""

    def __init__(self) -> None:
        self.made = 0
        self._tools: dict[str, str] = {}
        """By a call's id."""
        self._waiting: dict[str, OrderedDict[str, None]] = {}
        """By tool: the calls' ids, in order."""

    def take(self, message: Message) -> None:
        """Note the calls that a message makes, or that it answers one."""
        if message["role"] == "tool":
            asked = message["tool_call_id"]
            self._waiting.get(self._tools.get(asked, ""), {}).pop(asked, None)
        for call in message.get("tool_calls") or ():
            tool = self._tools[call["id"]] = call["function"]["name"]
            self._waiting.setdefault(tool, OrderedDict())[call["id"]] = None
            self.made += 1

    def first_of(self, tool: str) -> str | None:
        """Return the id of the first call of a tool that waits."""
        return next(iter(self._waiting.get(tool, ())), None)


def _noted(said: Sequence[Segment], place: int, agent: str) -> tuple[Message, int]:
    """Return the message that a note begins, and where it ends; none if the note is no such."""
    segment = said[place]
    note = read_note(segment.text) if segment.author == _NOTE_AUTHOR else None
    if note is None:
        return {}, place + 1
    end = place + 1 + len(note.kinds)
    group = said[place + 1 : end]
    if not group or tuple(s.kind for s in group) != note.kinds:
        return {}, place + 1
    text = "" if group[0].kind is SegmentKind.TOOL_CALL else group[0].text
    message = restored(_plain(group, agent), note, text)
    return (message, end) if _says(message, group, agent) else ({}, place + 1)


def _says(message: Message, group: Sequence[Segment], agent: str) -> bool:
    """Say whether a message has the words, and the speaker, of these segments, and no others."""
    asked = {str(message.get("tool_call_id")): group[0].author}
    importer = _Importer(TenantKey().empty(), agent, asked)
    try:
        rows = importer._rows(message, "")
    except TranscriptError:
        return False
    return rows == [(s.kind, s.author, s.text) for s in group]


def _grouped(said: Sequence[Segment], place: int) -> int:
    """Return how many segments are one message: a message and the calls that follow it."""
    first = said[place]
    count = 1
    while (
        first.kind in _ASSISTANT
        and place + count < len(said)
        and said[place + count].kind is SegmentKind.TOOL_CALL
        and said[place + count].author == first.author
    ):
        count += 1
    return count


def _plain(group: Sequence[Segment], agent: str) -> Message:
    """Return the message that segments give by themselves; ids of calls are empty."""
    first = group[0]
    if first.kind is SegmentKind.TOOL_RESULT:
        return {"role": "tool", "tool_call_id": "", "content": first.text}
    if first.kind in _ASSISTANT:
        return _named({"role": "assistant", **_spoken(group)}, first.author, agent)
    if first.kind in (SegmentKind.ROLE, SegmentKind.PRIVATE_ROLE):
        return _named({"role": "system", "content": first.text}, first.author, agent)
    usual = _USUAL_AUTHORS.get(first.kind, "")
    return _named({"role": "user", "content": first.text}, first.author, usual)


def _named(message: Message, author: str, usual: str) -> Message:
    return message if author in ("", usual) else {**message, "name": author}


def _spoken(group: Sequence[Segment]) -> Message:
    texts: list[str] = []
    calls: list[Message] = []
    for segment in group:
        call = read_call(segment.text) if segment.kind is SegmentKind.TOOL_CALL else None
        if call is None:
            texts.append(segment.text)
        else:
            function = {"name": call[0], "arguments": call[1]}
            calls.append({"id": "", "type": "function", "function": function})
    content = "".join(texts) if texts else None
    return {"content": content, "tool_calls": calls} if calls else {"content": content}


def _with_ids(message: Message, segment: Segment, made: _Calls) -> Message:
    """Give calls that were not imported their ids, and results the id of the call they answer."""
    if message["role"] == "tool":
        asked = made.first_of(segment.author)
        if asked is None:
            return _named({"role": "user", "content": segment.text}, segment.author, "")
        return {**message, "tool_call_id": asked}
    if "tool_calls" not in message:
        return message
    calls = [
        {**call, "id": f"call_{segment.digest[:6].hex()}_{number}"}
        for number, call in enumerate(message["tool_calls"], made.made)
    ]
    return {**message, "tool_calls": calls}
