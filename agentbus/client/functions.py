"""Plain functions as agents: what is no model speaks on the bus like what is."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio.to_thread

from ..errors import ConfigError
from .agent import Agent, handler

__all__ = ["agent_of"]


def agent_of(*functions: Callable[..., Any], concurrency: int = 1) -> type[Agent]:
    """Return an agent class that answers with functions, chosen by the type that each takes.

    A function takes the message, annotated with its type, and a `Call` if it wants one. It may be
    async, an async generator, whose parts are streamed, or plain: then it runs in a thread, so that
    it may block. The first function's docstring is the agent's role, its name the default name.

    Args:
        functions: one or more; no two take types of one name.
        concurrency: how many messages are handled at once.

    Raises:
        ConfigError: a function does not take one annotated message.
    """
    if not functions:
        raise ConfigError("agent_of", "takes one function at least")
    methods = {f"handle_{place}": _method(f) for place, f in enumerate(functions)}
    first = functions[0]
    body = {"__doc__": first.__doc__, "concurrency": concurrency, **methods}
    return type(first.__name__, (Agent,), body)


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler that calls a function."""
    name = getattr(function, "__name__", repr(function))
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise ConfigError(name, f"its annotations cannot be read: {error}") from error
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) not in (1, 2) or parameters[0] not in hints:
        raise ConfigError(name, "annotate its first parameter; a Call may be the second")
    arguments = len(parameters)
    method = _streamed(function, arguments) if inspect.isasyncgenfunction(function) else None
    method = method or _answered(function, arguments)
    method.__annotations__ = {"message": hints[parameters[0]], "return": hints.get("return")}
    return handler(method)


def _streamed(function: Callable[..., Any], arguments: int) -> Callable[..., Any]:
    async def handle(self: Agent, message: Any, call: Any) -> AsyncIterator[Any]:
        async for part in function(*(message, call)[:arguments]):
            yield part

    return handle


def _answered(function: Callable[..., Any], arguments: int) -> Callable[..., Any]:
    is_async = inspect.iscoroutinefunction(function)

    async def handle(self: Agent, message: Any, call: Any) -> Any:
        given = (message, call)[:arguments]
        if is_async:
            return await function(*given)
        return await anyio.to_thread.run_sync(function, *given)

    return handle
