"""The tool by which a model gets back what its prompt leaves out: schemas, requests, answers.

Its schemas are one constant text, so that they are the same bytes in every prompt. What a model asks
is read here with distrust, and what it is answered is bounded and in plain words; looking it up is
for others. Answers go to the model as they are: no filter shortens what the tools of
`CONTEXT_TOOL_NAMES` gave.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from .excerpt import SEARCH_WORDS, Fetched, FetchStatus, FoundLine, Searched
from .fetch import is_reference
from .tools import canonical_tools

__all__ = [
    "ANSWER_BYTES",
    "CONTEXT_TOOLS",
    "CONTEXT_TOOL_NAMES",
    "GetRequest",
    "SearchRequest",
    "context_tools",
    "read_request",
    "write_fetched",
    "write_searched",
]

_GET: Final = "context_get"
_SEARCH: Final = "context_search"
CONTEXT_TOOL_NAMES: Final = frozenset({_GET, _SEARCH})
"""The names of the tool's functions, which are the authors of their results in contexts."""
ANSWER_BYTES: Final = 8000
"""UTF-8 bytes of text that one answer gives at most; hence about 2,000 tokens of English."""
_LINE_CHARACTERS = 200
"""Characters of one line that a search gives."""
_BEFORE = 40
"""Those of them that stand before the first word, where the line is longer."""

_REF = {"type": "string", "description": "The reference, as the mark has it. It begins with ctx:"}
CONTEXT_TOOLS: Final = canonical_tools(
    [
        {
            "name": _GET,
            "description": (
                "Gives back what was left out of a text in this conversation. A mark stands in its "
                "place, and says what to get: a reference, and lines or characters."
            ),
            "parameters": {
                "type": "object",
                "properties": {
                    "ref": _REF,
                    "lines": {"type": "string", "description": "First and last line: 3-12"},
                    "characters": {
                        "type": "string",
                        "description": "First and last, where the mark says so, in these lines: 1-900",
                    },
                },
                "required": ["ref"],
                "additionalProperties": False,
            },
        },
        {
            "name": _SEARCH,
            "description": (
                "Finds the lines that hold all of the given words, in the whole of such a text, and "
                "says their numbers."
            ),
            "parameters": {
                "type": "object",
                "properties": {
                    "ref": _REF,
                    "query": {"type": "string", "description": "Words that stand in one line"},
                },
                "required": ["ref", "query"],
                "additionalProperties": False,
            },
        },
    ]
)
"""The tool's schemas, for `Context.tools`: it goes before the conversation, as all tools do."""

_FAR = 10**15
"""No text is so long."""
_RANGE = re.compile(r"([0-9]{1,15})(?:-([0-9]{1,15}))?")
_TAKES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {_GET: ("ref", "lines", "characters"), _SEARCH: ("ref", "query")}
)


class GetRequest(NamedTuple):
    """What a model asks of `context_get`; its ranges are in order."""

    ref: str
    lines: tuple[int, int] | None
    characters: tuple[int, int] | None


class SearchRequest(NamedTuple):
    """What a model asks of `context_search`."""

    ref: str
    query: str


def context_tools() -> tuple[dict[str, Any], ...]:
    """Return the tool's schemas as values, for the `tools` of `Call.generate`."""
    return tuple(json.loads(CONTEXT_TOOLS))


def read_request(name: str, arguments: Mapping[str, object]) -> GetRequest | SearchRequest | str:
    """Return what a model asks of one of `CONTEXT_TOOL_NAMES`; a text is what to answer at once."""
    given = {key: value for key, value in arguments.items() if value not in (None, "")}
    if not given.keys() <= {*_TAKES[name]}:
        return f"[{name} takes {', '.join(_TAKES[name])}, and nothing else]"
    ref = given.get("ref")
    if not isinstance(ref, str) or not is_reference(ref):
        return "[ref is missing or is none: copy it from a mark, from ctx: to its last digit]"
    return _search(ref, given.get("query")) if name == _SEARCH else _get(ref, given)


def _get(ref: str, given: Mapping[str, object]) -> GetRequest | str:
    ranges: dict[str, tuple[int, int]] = {}
    for what in given.keys() & {"lines", "characters"}:
        found = _range(given[what])
        if found is None:
            return f"[{what} are written as first-last, counted from 1, such as 3-12]"
        ranges[what] = found
    return GetRequest(ref, ranges.get("lines"), ranges.get("characters"))


def _search(ref: str, query: object) -> SearchRequest | str:
    if not isinstance(query, str) or not 1 <= len(query.casefold().split()) <= SEARCH_WORDS:
        return f"[query takes 1 to {SEARCH_WORDS} words]"
    return SearchRequest(ref, query)


def _range(value: object) -> tuple[int, int] | None:
    if isinstance(value, int) and 0 < value < _FAR:
        value = str(value)
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    return (first, last) if 1 <= first <= last else None


def write_fetched(asked: GetRequest, fetched: Fetched) -> str:
    """Return what a model is answered: the text, where it stands, and how to go on behind it."""
    ref, lines, total = asked.ref, fetched.total_lines, fetched.total_characters
    if fetched.status is not FetchStatus.FOUND:
        return _without(ref, fetched.status)
    if fetched.lines == (0, 0):
        return f"[{ref} has {lines} lines and {total} characters: nothing stands there]"
    given = _bounded(fetched.text)
    first, last = fetched.characters
    cut = len(given) < len(fetched.text)
    if asked.characters or (cut and "\n" not in fetched.text[: len(given) + 1]):
        end = first + len(given) - 1
        more = f"\n[goes on: get {ref} characters={end + 1}-{last}]" if cut else ""
        return f"[{ref} characters {first}-{end} of {total}]\n{given}{more}"
    begin, until = fetched.lines
    if not cut:
        return f"[{ref} lines {begin}-{until} of {lines}]\n{given}"
    given = fetched.text[: fetched.text.rindex("\n", 0, len(given) + 1)]
    end = begin + given.count("\n")
    more = f"[goes on: get {ref} lines={end + 1}-{until}]"
    return f"[{ref} lines {begin}-{end} of {lines}]\n{given}\n{more}"


def write_searched(asked: SearchRequest, searched: Searched) -> str:
    """Return what a model is answered: lines with their numbers, long ones around the words."""
    ref = asked.ref
    if searched.status is not FetchStatus.FOUND:
        return _without(ref, searched.status)
    if not searched.lines:
        return f"[no line of {ref} holds all of these words; try fewer]"
    written, room = [f"[lines of {ref} that hold all of these words]"], ANSWER_BYTES
    for found in searched.lines:
        line = _line(found)
        room -= len(line.encode()) + 1
        if room < 0:
            break
        written.append(line)
    if searched.more or room < 0:
        written.append("[there are more: add a word]")
    return "\n".join(written)


def _line(found: FoundLine) -> str:
    if len(found.text) <= _LINE_CHARACTERS:
        return f"{found.line}: {found.text}"
    start = max(0, min(found.place - _BEFORE, len(found.text) - _LINE_CHARACTERS))
    text = found.text[start : start + _LINE_CHARACTERS]
    first = found.character + start
    return f"{found.line} (characters {first}-{first + len(text) - 1}): {text}"


def _bounded(text: str) -> str:
    """Return the beginning of a text, no more than `ANSWER_BYTES`, and no half of a character."""
    return text[:ANSWER_BYTES].encode()[:ANSWER_BYTES].decode(errors="ignore")


def _without(ref: str, status: FetchStatus) -> str:
    if status is FetchStatus.FORBIDDEN:
        return f"[{ref} is not for you to read]"
    if status is FetchStatus.EXPIRED:
        return f"[nothing that is kept has the reference {ref}: go on with what stands here]"
    return f"[nothing in this conversation has the reference {ref}: copy it from a mark]"
