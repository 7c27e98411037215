"""Tool schemas and calls as text that a model reads: equal meaning has equal bytes.

Schemas come from programs that write the same tool in many ways: keys in another order, `1.0` for
`1`, keywords that say what holds anyway. Each such change early in a prompt would cost the whole
prefix. Here a list of tools has one form. What the model may call, and calling it, is for others.

A call is written as Hermes and Qwen models do, so that what a model generated and what stands in
a transcript are the same text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from ..errors import ToolSchemaError
from . import canonical

__all__ = [
    "MAX_TOOLS",
    "MAX_TOOLS_SIZE",
    "TOOLS_INTRODUCTION",
    "canonical_tools",
    "merge_tools",
    "read_call",
    "same_tools",
    "write_call",
]

MAX_TOOLS = 1024
"""Tools of one list."""
MAX_TOOLS_SIZE = 4 * 1024 * 1024
"""Characters, or bytes, of a list of tools as it is given."""
TOOLS_INTRODUCTION = (
    "These are the tools. To call one, write its name and its arguments in this form:\n\n"
    '<tool_call>\n{"name": "the tool", "arguments": {}}\n</tool_call>'
)
"""Stands before the tools in a prompt."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_SIMPLE_REFERENCE = re.compile(r"#(/(\$defs|definitions)/[^/]+|[A-Za-z_][\w.-]*)?")
_ONE_SCHEMA = frozenset(
    [
        "additionalItems",
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    ]
)
_SCHEMA_LISTS = frozenset(["allOf", "anyOf", "items", "oneOf", "prefixItems"])
_NAMED_SCHEMAS = frozenset(
    ["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"]
)
_UNEVALUATED = frozenset(["unevaluatedItems", "unevaluatedProperties"])
_SAME_AS_ABSENT: Mapping[str, Any] = MappingProxyType(
    {
        "$defs": {},
        "definitions": {},
        "dependentRequired": {},
        "dependentSchemas": {},
        "deprecated": False,
        "minContains": Decimal(1),
        "minItems": Decimal(0),
        "minLength": Decimal(0),
        "minProperties": Decimal(0),
        "patternProperties": {},
        "properties": {},
        "readOnly": False,
        "required": [],
        "uniqueItems": False,
        "writeOnly": False,
    }
)
"""Values of which JSON Schema 2020-12 says that the keyword left out means the same."""
_ALLOWS_ALL = frozenset(["additionalItems", "additionalProperties", "items", "propertyNames"])
"""Keywords whose schemas say nothing if they allow all, unless something is `unevaluated…`."""
_CALL_START, _CALL_JOINT, _CALL_END = '<tool_call>\n{"name": ', ', "arguments": ', "}\n</tool_call>"


def canonical_tools(tools: str | bytes | Sequence[Mapping[str, Any]]) -> str:
    """Return a list of tools in its one form, for `Context.tools`.

    Takes JSON text or values: a list of functions as chat completions have them
    (`{"type": "function", "function": {"name", "description", "parameters"}}`), or the inner
    objects alone. Tools are ordered by name; keys are ordered, numbers have one lexeme, keywords
    of JSON Schema that say what holds without them are left out, `required` and lists of types are
    ordered. The order of other arrays stays.

    Raises:
        ToolSchemaError: it is not JSON, not a list of such tools, a name stands for two tools, or
            it is over a limit (`MAX_TOOLS`, `MAX_TOOLS_SIZE`, `canonical.MAX_DEPTH`).
    """
    return _listed(_union([tools]))


def merge_tools(lists: Sequence[str]) -> str:
    """Return the union of lists of tools; one list alone stays as it is.

    Raises:
        ToolSchemaError: as `canonical_tools`, and where two lists disagree about a tool.
    """
    distinct = list(dict.fromkeys(lists))
    return distinct[0] if len(distinct) == 1 else _listed(_union(distinct))


def same_tools(one: str, other: str) -> bool:
    """Say whether two texts are lists of tools that mean the same."""
    try:
        return canonical_tools(one) == canonical_tools(other)
    except ToolSchemaError:
        return False


def _union(lists: Iterable[str | bytes | Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for tools in lists:
        for place, value in enumerate(_read(tools)):
            name, text = _tool(value, place)
            if found.setdefault(name, text) != text:
                raise ToolSchemaError(name, "two different tools have this name; rename one")
    return found


def _listed(tools: Mapping[str, str]) -> str:
    if len(tools) > MAX_TOOLS:
        raise ToolSchemaError("", f"{len(tools)} are over the limit of {MAX_TOOLS}")
    return f"[{','.join(tools[name] for name in sorted(tools))}]"


def _read(tools: str | bytes | Sequence[Mapping[str, Any]]) -> list[Any]:
    try:
        text = tools if isinstance(tools, str | bytes) else json.dumps(tools, allow_nan=False)
        if len(text) > MAX_TOOLS_SIZE:
            raise ToolSchemaError(
                "", f"a size of {len(text)} is over the limit of {MAX_TOOLS_SIZE}"
            )
        value = canonical.parse(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ToolSchemaError("", f"not JSON: {error}") from error
    if not isinstance(value, list):
        raise ToolSchemaError("", "not a list of tools")
    if len(value) > MAX_TOOLS:
        raise ToolSchemaError("", f"{len(value)} are over the limit of {MAX_TOOLS}")
    return value


def _tool(value: Any, place: int) -> tuple[str, str]:
    """Return a tool's name and its one form."""
    if not isinstance(value, dict):
        raise ToolSchemaError(str(place), "not an object")
    function = value
    if "function" in value:
        if value.get("type", "function") != "function" or set(value) - {"type", "function"}:
            raise ToolSchemaError(str(place), "more than a type and a function")
        function = value["function"]
        if not isinstance(function, dict):
            raise ToolSchemaError(str(place), "its function is not an object")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problem = "its name is not 1 to 128 letters, digits, '_', '.' or '-'"
        raise ToolSchemaError(str(place), problem)
    written = {"type": "function", "function": _function(name, function)}
    return name, canonical.write(written)


def _function(name: str, function: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in function.items() if value not in (None, "")}
    if not isinstance(found.get("description", ""), str):
        raise ToolSchemaError(name, "its description is not a text")
    strict = found.get("strict", False)
    if not isinstance(strict, bool):
        raise ToolSchemaError(name, "strict is neither true nor false")
    if not strict:
        found.pop("strict", None)
    schema = function.get("parameters")
    if schema is not None:
        if not isinstance(schema, dict):
            raise ToolSchemaError(name, "its parameters are not a JSON Schema object")
        found["parameters"] = _schema(schema, _Rules.of(schema))
    return found


class _Rules:
    """What may be left out of a schema: it depends on what else stands in the document."""

    __slots__ = ("absent", "allows_all")

    def __init__(self, *, absent: bool, allows_all: bool) -> None:
        self.absent = absent
        """Keywords that say what holds anyway: not where a reference may point into one."""
        self.allows_all = allows_all
        """Schemas that allow all: they do count where something is `unevaluated…`."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> _Rules:
        """Look through a whole document."""
        simple, evaluated = True, True
        stack: list[Any] = [document]
        while stack:
            value = stack.pop()
            if isinstance(value, dict):
                evaluated = evaluated and not _UNEVALUATED & value.keys()
                for key in ("$ref", "$dynamicRef", "$recursiveRef"):
                    target = value.get(key, "#")
                    simple = simple and (
                        not isinstance(target, str)
                        or _SIMPLE_REFERENCE.fullmatch(target) is not None
                    )
                stack += value.values()
            elif isinstance(value, list):
                stack += value
        return cls(absent=simple, allows_all=simple and evaluated)

    def says_nothing(self, key: str, value: Any) -> bool:
        """Say whether a keyword with that value means what its absence means."""
        if key in _ALLOWS_ALL:
            return self.allows_all and (value is True or value == {})
        if key not in _SAME_AS_ABSENT or not self.absent:
            return False
        same = _SAME_AS_ABSENT[key]
        return type(value) is type(same) and bool(value == same)


def _schema(schema: Any, rules: _Rules) -> Any:
    if not isinstance(schema, dict):
        return schema
    written = {key: _keyword(key, value, rules) for key, value in schema.items()}
    return {key: value for key, value in written.items() if not rules.says_nothing(key, value)}


def _keyword(key: str, value: Any, rules: _Rules) -> Any:
    if key in _NAMED_SCHEMAS and isinstance(value, dict):
        return {name: _schema(inner, rules) for name, inner in value.items()}
    if key in _SCHEMA_LISTS and isinstance(value, list):
        return [_schema(inner, rules) for inner in value]
    if key in _ONE_SCHEMA:
        return _schema(value, rules)
    if key == "required":
        return _ordered(value)
    if key == "type":
        types = _ordered(value)
        return types[0] if isinstance(types, list) and len(types) == 1 else types
    if key == "dependentRequired" and isinstance(value, dict):
        return {name: _ordered(names) for name, names in value.items()}
    return value


def _ordered(value: Any) -> Any:
    """Return a set that is written as an array of texts, in order."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(set(value))
    return value


def write_call(name: str, arguments: str) -> str:
    """Return a call as the model reads it. `arguments` is what the model wrote, JSON or not.

    An object's text stays letter for letter; anything else is written as a JSON string.
    """
    inner = arguments if _is_object(arguments) else json.dumps(arguments, ensure_ascii=False)
    start = _CALL_START + json.dumps(name, ensure_ascii=False)
    return start + _CALL_JOINT + inner + _CALL_END


def read_call(text: str) -> tuple[str, str] | None:
    """Return name and arguments of a call that `write_call` wrote; None if it is no such text."""
    if not text.startswith(_CALL_START) or not text.endswith(_CALL_END):
        return None
    inner = text[len(_CALL_START) : len(text) - len(_CALL_END)]
    try:
        name, end = json.JSONDecoder().raw_decode(inner)
        arguments = inner[end:].removeprefix(_CALL_JOINT)
        if not isinstance(name, str) or not inner.startswith(_CALL_JOINT, end):
            return None
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        return name, arguments
    return (name, value) if isinstance(value, str) else None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
