"""Tools that an answer may call: what a request says of them, and the calls that were read.

How a model writes a call is its family's own matter (`agentbus_torch.tool_calls`). That the prompt
describes the tools is the layout's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Final

import orjson

from ..errors import ConfigError

__all__ = [
    "ARGUMENTS",
    "CHOICES",
    "MAX_SCHEMA_BYTES",
    "MAX_TOOLS",
    "ToolCall",
    "check_choice",
    "check_schema",
    "tool_parameters",
]

MAX_TOOLS = 128
"""Tools that one request may name."""
MAX_SCHEMA_BYTES = 256 * 1024
"""Longest JSON schema, as JSON; also of the parameters of all tools together."""
CHOICES = frozenset({"auto", "none", "required"})
"""What `tool_choice` may be beside a tool's name."""


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _finite(lexeme: str) -> float:
    value = float(lexeme)
    if isinf(value):
        raise ValueError(f"{lexeme[:40]} is too large")
    return value


ARGUMENTS: Final = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
"""Reads what a model wrote for a call: no number of it is infinite, or none."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model wrote: one of the request's tools, and a JSON object for it."""

    name: str
    arguments: Mapping[str, object]


def check_schema(schema: Mapping[str, object], what: str = "schema") -> int:
    """Check that a schema is a JSON object within `MAX_SCHEMA_BYTES`; return its bytes.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(schema, Mapping):
        raise ConfigError(what, f"must be a JSON object, not {type(schema).__name__}")
    try:
        size = len(orjson.dumps(schema, default=_plain))
    except TypeError as error:
        raise ConfigError(what, f"is not JSON ({error})") from error
    if size > MAX_SCHEMA_BYTES:
        raise ConfigError(what, f"has {size} bytes, over the limit of {MAX_SCHEMA_BYTES}")
    return size


def tool_parameters(tools: Sequence[Mapping[str, object]]) -> dict[str, Mapping[str, object]]:
    """Return the schemas of tools' parameters by the tools' names.

    A tool is `{"type": "function", "function": {"name", "description", "parameters"}}`, or the
    inner object alone.

    Raises:
        ConfigError: one is malformed, a name stands twice, or they are too many or too long.
    """
    if isinstance(tools, str | bytes) or not isinstance(tools, Sequence):
        raise ConfigError("tools", f"must be a tuple of functions, not {type(tools).__name__}")
    if len(tools) > MAX_TOOLS:
        raise ConfigError("tools", f"are {len(tools)}, over the limit of {MAX_TOOLS}")
    found: dict[str, Mapping[str, object]] = {}
    size = 0
    for tool in tools:
        name, parameters = _tool(tool)
        if name in found:
            raise ConfigError("tools", f"name {name!r} twice")
        size += check_schema(parameters, f"parameters of tool {name!r}")
        found[name] = parameters
    if size > MAX_SCHEMA_BYTES:
        raise ConfigError("tools", f"have {size} bytes, over the limit of {MAX_SCHEMA_BYTES}")
    return found


def check_choice(choice: str, names: Sequence[str]) -> None:
    """Check a `tool_choice`.

    Raises:
        ConfigError: it names no tool of the request, or asks for a call where there are no tools.
    """
    if not isinstance(choice, str):
        problem = f"must be auto, none, required or a tool's name, not {choice!r:.60}"
        raise ConfigError("tool_choice", problem)
    if choice in ("auto", "none"):
        return
    if not names:
        raise ConfigError("tool_choice", f"is {choice!r}, and the request has no tools")
    if choice not in CHOICES and choice not in names:
        known = ", ".join(sorted({*CHOICES, *names}))
        raise ConfigError("tool_choice", f"must be one of {known}, not {choice!r}")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):  # such as a MappingProxyType, which orjson does not know
        return dict(value)
    raise TypeError(f"it holds a {type(value).__name__}")


def _tool(tool: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
    if not isinstance(tool, Mapping):
        raise ConfigError("tools", f"must be JSON objects, not {type(tool).__name__}")
    function = tool.get("function", tool)
    if tool.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise ConfigError("tools", "must be functions: {'type': 'function', 'function': {…}}")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in CHOICES:
        raise ConfigError("tools", f"have a name that cannot be used: {name!r}")
    parameters = function.get("parameters", {"type": "object", "properties": {}})
    if not isinstance(parameters, Mapping):
        raise ConfigError("tools", f"have parameters of {name!r} that are not a JSON object")
    return name, parameters
