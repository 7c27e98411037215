"""Agents as users write them: a class whose handlers are chosen by the type of the message."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, TypeVar, cast

from ..errors import ConfigError
from .payload import PayloadType, payload_type
from .spec import HandlerSpec

__all__ = ["Agent", "HandlerSpec", "handler", "handlers_of", "role_of"]

Method = TypeVar("Method", bound=Callable[..., Any])
_MARK = "__agentbus_handler__"


class Agent:
    """Base of agents. The class's docstring is the agent's role: its standing instructions.

    One instance handles one message at a time, in the order of arrival, unless `concurrency`
    says how many at once.
    """

    concurrency: ClassVar[int] = 1
    name: str = ""
    """Set when the agent is spawned."""

    async def started(self) -> None:
        """Called once before the first message."""

    async def stopped(self) -> None:
        """Called once after the last message."""


def handler(method: Method) -> Method:
    """Mark a method as the handler of the type that its first parameter is annotated with.

    `async def review(self, draft: Draft, call: Call) -> Review` answers with its return value;
    an async generator streams each value that it yields. `draft: Draft | Note` takes either type.
    Handlers run in tasks that all agents share: one that sets a context variable resets it, else
    handlers of other messages may find its value.
    """
    setattr(method, _MARK, True)
    return method


def role_of(kind: type[Agent]) -> str:
    """Return the agent's standing instructions: its own docstring, or nothing."""
    return inspect.cleandoc(kind.__doc__) if kind.__doc__ and kind is not Agent else ""


def _evaluate(method: Callable[..., Any], name: str) -> Any:
    """Return one annotation of a method; others may stay unreadable at run time."""
    annotation = method.__annotations__.get(name)
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, method.__globals__)
    except NameError:
        return None


def _returned_types(method: Callable[..., Any], streams: bool) -> tuple[PayloadType, ...]:
    annotation = _evaluate(method, "return")
    if streams:
        annotation = next(iter(typing.get_args(annotation)), None)
    return () if annotation is None else tuple(map(payload_type, _alternatives(annotation)))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the types that a union stands for, or the one type."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _specs(kind: type[Agent], name: str, method: Callable[..., Any]) -> list[HandlerSpec]:
    where = f"{kind.__name__}.{name}"
    parameters = list(inspect.signature(method).parameters)
    if len(parameters) != 3:
        raise ConfigError(where, "a handler takes self, a message and a call")
    streams = inspect.isasyncgenfunction(method)
    if not streams and not inspect.iscoroutinefunction(method):
        raise ConfigError(where, "a handler is an async method")
    accepts = _evaluate(method, parameters[1])
    if accepts is None:
        raise ConfigError(where, "annotate the message with a type that its module can see")
    returned = _returned_types(method, streams)
    return [
        HandlerSpec(name, method, payload_type(one), returned, streams)
        for one in _alternatives(accepts)
    ]


def _read_handlers(kind: type[Agent]) -> Mapping[str, HandlerSpec]:
    found: dict[str, HandlerSpec] = {}
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not hasattr(method, _MARK):
            continue
        for spec in _specs(kind, name, method):
            if spec.accepts.name in found:
                raise ConfigError(kind.__name__, f"two handlers accept {spec.accepts.name}")
            found[spec.accepts.name] = spec
    if not found:
        raise ConfigError(kind.__name__, "has no method marked with @handler")
    return found


handlers_of = cast(
    Callable[[type[Agent]], Mapping[str, HandlerSpec]], lru_cache(maxsize=1024)(_read_handlers)
)
"""Returns the handlers of an agent class by the name of the payload type that each accepts; raises
ConfigError if a handler is not well formed, or two accept types of one name."""
