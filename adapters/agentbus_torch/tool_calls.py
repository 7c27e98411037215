"""Calls of tools, as the families' models write them.

Hermes (Qwen, SmolLM, Hermes): `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number.
Llama 3: `{"name": …, "parameters": {…}}` as the whole answer, maybe behind `<|python_tag|>`, several
apart by `;`. Mistral: `[TOOL_CALLS][{"name": …, "arguments": {…}}]`, or `[TOOL_CALLS]name{…}` for
each call since its version 11. What looks like a call and is none stays text, and is counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from agentbus.engine import ToolCall
from agentbus.engine.stop import beginning_at_end
from agentbus.engine.tools import ARGUMENTS

from .grammar import json_rule

__all__ = [
    "FORMATS",
    "MAX_CALLS",
    "MAX_CALL_CHARACTERS",
    "ToolCallReader",
    "ToolFormat",
    "find_format",
    "read_calls",
]

MAX_CALLS = 128
"""Calls that are read from one answer; more are text."""
MAX_CALL_CHARACTERS = 1024 * 1024
"""Longest text of one call, or of Mistral's and Llama's calls together; a longer one is text."""

_NAMED = re.compile(r"\s*+([A-Za-z0-9_.-]{1,128}+)\s*+(?:\[CALL_ID\]\w*+)?(?:\[ARGS\])?\s*+(?=\{)")
_JOINT = re.compile(r"[ \t\r\n;]*+(?:\[TOOL_CALLS\])?")


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a family writes calls."""

    tag: str
    """What stands before a call."""
    end: str = ""
    """What stands behind it; empty where calls go on to the answer's end."""
    bare: bool = False
    """A call may also stand without its tag, as the whole answer."""
    arguments: str = "arguments"
    """The name of the field that holds them."""
    in_list: bool = False
    """The calls behind the tag are a JSON list."""

    def grammar(
        self,
        tools: Mapping[str, Mapping[str, object]],
        special_id: Callable[[str], int | None],
        *,
        once: bool,
    ) -> str:
        """Return the grammar of an answer that calls these tools (parameters' schemas by name).

        Args:
            special_id: the id of a text that is a special token, as tags may be.
            once: whether it is one call; otherwise it may be several.
        """
        one = {"anyOf": [self._schema(name, schema) for name, schema in tools.items()]}
        tag, end = _terminal(self.tag, special_id), _terminal(self.end, special_id)
        if self.in_list:
            most = 1 if once else MAX_CALLS
            listed = {"type": "array", "items": one, "minItems": 1, "maxItems": most}
            return f"start: {tag} calls\ncalls: {json_rule(listed)}"
        if self.bare:
            return f"start: {json_rule(one)}"
        more = "" if once else ' ("\\n" tagged)*'
        return f'start: tagged{more}\ntagged: {tag} "\\n" call "\\n" {end}\ncall: {json_rule(one)}'

    def _schema(self, name: str, parameters: Mapping[str, object]) -> dict[str, object]:
        return {
            "type": "object",
            "properties": {"name": {"const": name}, self.arguments: parameters},
            "required": ["name", self.arguments],
            "additionalProperties": False,
        }


def _terminal(text: str, special_id: Callable[[str], int | None]) -> str:
    token = special_id(text)
    return json.dumps(text) if token is None else f"<[{token}]>"


FORMATS: Mapping[str, ToolFormat] = {
    "hermes": ToolFormat("<tool_call>", "</tool_call>"),
    "llama3": ToolFormat("<|python_tag|>", bare=True, arguments="parameters"),
    "mistral": ToolFormat("[TOOL_CALLS]", in_list=True),
}


def find_format(template: str) -> ToolFormat:
    """Return the format that a chat template speaks of; Hermes' if it speaks of none."""
    for tool_format in FORMATS.values():
        if tool_format.tag in template:
            return tool_format
    return FORMATS["hermes"]


def read_calls(text: str, names: frozenset[str]) -> tuple[ToolCall, ...]:
    """Read calls of the named tools; return none if the text is anything else as well."""
    try:
        calls = tuple(_call(value, names) for value in _values(text))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return calls if len(calls) <= MAX_CALLS else ()


def _values(text: str) -> Iterator[object]:
    """Yield the calls in a text: values of JSON, or items of lists, apart by blanks or `;`."""
    text, at = text.strip(), 0
    while at < len(text):
        named = _NAMED.match(text, at)
        value, end = ARGUMENTS.raw_decode(text, named.end() if named else at)
        if named:
            yield {"name": named[1], "arguments": value}
        elif isinstance(value, list):
            yield from value
        else:
            yield value
        joint = _JOINT.match(text, end)
        at = joint.end() if joint else end


def _call(value: object, names: frozenset[str]) -> ToolCall:
    if not isinstance(value, dict):
        raise TypeError("a call is an object")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # as OpenAI's interface has them
        arguments = ARGUMENTS.decode(arguments)
    if not isinstance(arguments, dict) or value["name"] not in names:
        raise ValueError("not a call of a tool that may be called")
    return ToolCall(value["name"], arguments)


class ToolCallReader:
    """Takes the calls out of an answer as it streams; the rest is let through."""

    def __init__(self, tool_format: ToolFormat, names: frozenset[str]) -> None:
        self.calls: list[ToolCall] = []
        self.malformed = 0
        self._format = tool_format
        self._names = names
        self._held = ""
        self._inside = False
        self._opening = tool_format.bare
        """Nothing but blanks was said so far, and a call may stand bare."""

    def add(self, text: str) -> str:
        """Take more of the answer; return what is certainly text."""
        before = len(self._held)
        self._held += text
        shown = ""
        while self._held:
            if not self._inside:
                shown += self._outside()
                if not self._inside:
                    break
                before = 0
            end = self._format.end
            at = self._held.find(end, max(1, before - len(end))) if end else -1
            if at < 0:
                if len(self._held) > MAX_CALL_CHARACTERS:
                    shown += self._close(len(self._held))
                break
            shown += self._close(at + len(end))
            before = 0
        return shown

    def rest(self) -> str:
        """Return what is left, now that the answer has ended."""
        if self._inside:
            return self._close(len(self._held))
        held, self._held = self._held, ""
        return held

    def _outside(self) -> str:
        """Let text through up to where a call begins, or may."""
        text, tag = self._held, self._format.tag
        if self.calls:
            text = text.lstrip()  # blanks between calls are no text
        if self._opening:
            first = text.lstrip()
            self._opening = not first
            if not first or first.startswith("{"):
                self._held, self._inside = text, bool(first)
                return ""
        at = text.find(tag)
        self._inside = at >= 0
        if not self._inside:
            at = len(text) - beginning_at_end(text, tag)
        self._held = text[at:]
        return text[:at]

    def _close(self, length: int) -> str:
        """Read a call of that many held characters; return its text if it is none."""
        whole, self._held = self._held[:length], self._held[length:]
        self._inside = False
        body = whole.strip().removeprefix(self._format.tag)
        if self._format.end:
            body = body.removesuffix(self._format.end)
        calls = read_calls(body, self._names) if length <= MAX_CALL_CHARACTERS else ()
        if not calls or len(self.calls) + len(calls) > MAX_CALLS:
            self.malformed += 1
            return whole
        self.calls += calls
        return ""
