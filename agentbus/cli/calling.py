"""The `call` command: asks an agent with JSON, without having its types."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import orjson
import pydantic

from ..client import Bus
from ..client.payload import problem_of
from ..errors import ConfigError, InvalidMessage, NoHandler, NoResponder
from ..ops import AgentDescription, DescribeAgent, HandlerDescription, process_agent_name
from .keys import Join
from .runtime import json_text, print_json
from .terminal import print_line

__all__ = ["choose_handler", "run_call"]

_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


async def run_call(
    join: Join,
    target: str,
    text: str,
    *,
    kind: str,
    deadline: float | None,
    stream: bool,
    json: bool,
) -> None:
    """Ask an agent and print its answer.

    `kind` is `Module:Class` or the name of a type that the agent handles; without it, the type is
    the one whose schema the value fits.
    """
    value = _parse(text)
    async with join("call") as bus:
        bus.read_plain()
        if ":" in kind:
            payload = _imported(kind, value)
        else:
            handlers = (await _describe(bus, target)).handlers
            handler = choose_handler(target, handlers, value, kind)
            payload, stream = _named(handler.accepts, value), stream or handler.streams
        if not stream:
            reply = await bus.call(target, payload, deadline=deadline)
            account = {"account": dataclasses.asdict(reply.account)}
            _print(reply.value, {"value": reply.value, **account}, json)
            return
        async with bus.stream(target, payload, deadline=deadline) as parts:
            async for part in parts:
                _print(part, {"part": part}, json)
            if (value := parts.reply.value) is not None:  # of a handler that does not stream
                _print(value, {"value": value}, json)


def _print(value: Any, row: dict[str, Any], json: bool) -> None:
    if json:
        print_json(row)
    elif isinstance(value, str):
        print_line(value)
    elif value is not None:
        print_line(json_text(value, indent=True))


def _parse(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        problem = f"{text[:40]!r} is not JSON; a text needs quotes of its own: '\"hello\"'"
        raise ConfigError("JSON", problem) from error


async def _describe(bus: Bus, target: str) -> AgentDescription:
    """Return what an agent handles, as its process says."""
    for agent in await bus.agents():
        if agent.name == target:
            break
    else:
        raise NoResponder(target)
    process = process_agent_name(agent.peer)
    try:
        return await bus.request(process, DescribeAgent(target), returns=AgentDescription)
    except NoResponder as error:
        problem = f"the process of {target!r} was not started by agentbus worker, so it cannot say"
        raise ConfigError("--type", f"{problem} what it handles: give Module:Class") from error


def choose_handler(
    target: str, handlers: Sequence[HandlerDescription], value: Any, kind: str
) -> HandlerDescription:
    """Return the handler of the type `kind`, else the only one whose schema the value may fit.

    Raises:
        NoHandler: there is no handler of that type.
        ConfigError: the value fits none, or several.
    """
    if kind:
        for handler in handlers:
            if handler.accepts == kind:
                return handler
        raise NoHandler(target, kind, ", ".join(h.accepts for h in handlers))
    fitting = [h for h in handlers if may_fit(_schema_of(h), value)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(h.accepts for h in fitting or handlers)
    if fitting:
        raise ConfigError(
            "--type", f"the value fits several types of {target!r}; name one: {names}"
        )
    wanted = "; ".join(f"{h.accepts} {_outline(_schema_of(h))}" for h in handlers)
    raise ConfigError("JSON", f"the value fits nothing that {target!r} handles, which is: {wanted}")


def _schema_of(handler: HandlerDescription) -> dict[str, Any]:
    """Return a handler's schema as its process wrote it; one that says nothing, if it is none."""
    try:
        schema = orjson.loads(handler.schema)
    except orjson.JSONDecodeError:
        schema = None
    return schema if isinstance(schema, dict) else {}


def may_fit(schema: dict[str, Any], value: Any) -> bool:
    """Tell whether a value has the type, and an object the fields, that a schema asks for.

    The agent's process checks the rest.
    """
    types = _JSON_TYPES.get(str(schema.get("type")))
    if types is None:
        return True
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        return False
    if not isinstance(value, dict) or "properties" not in schema:
        return True
    return set(schema.get("required", ())) <= set(value) <= set(schema["properties"])


def _outline(schema: dict[str, Any]) -> str:
    """Write a schema as a person would: the fields of an object, with `?` where one may lack."""
    if "properties" not in schema:
        return f"({schema.get('type', 'any')})"
    required = schema.get("required", ())
    fields = [name if name in required else f"{name}?" for name in schema["properties"]]
    return "{" + ", ".join(fields) + "}"


def _named(name: str, value: Any) -> Any:
    """Return a payload that goes under a type's name, without the type."""
    kind: type[pydantic.RootModel[Any]] = type(name, (pydantic.RootModel[Any],), {})
    return kind(value)


def _imported(path: str, value: Any) -> Any:
    """Return a value of a type of the user's own, checked.

    Raises:
        ConfigError: there is no such type.
        InvalidMessage: the value is none.
    """
    module, _, name = path.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
        return pydantic.TypeAdapter(kind).validate_python(value)
    except (ImportError, AttributeError, pydantic.PydanticUserError) as error:
        raise ConfigError("--type", f"{path!r} cannot be used: {error}") from error
    except pydantic.ValidationError as error:
        raise InvalidMessage(name, problem_of(error)) from error
