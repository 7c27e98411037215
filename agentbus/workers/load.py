"""From `name=module:Class` to an agent."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass

from ..client import Agent
from ..errors import ConfigError

__all__ = ["Target", "load_agent", "parse_target"]


@dataclass(frozen=True, slots=True)
class Target:
    """An agent class to spawn, and the name to spawn it under; empty for the class's own."""

    module: str
    class_name: str
    name: str = ""


def parse_target(text: str) -> Target:
    """Read `module:Class` or `name=module:Class`.

    Raises:
        ConfigError: it is neither.
    """
    name, _, path = text.rpartition("=")
    module, colon, class_name = path.partition(":")
    if not (colon and class_name and all(part.isidentifier() for part in module.split("."))):
        raise ConfigError("agent", f"{text!r} is not of the form module:Class or name=module:Class")
    return Target(module, class_name, name)


def load_agent(target: Target) -> type[Agent]:
    """Import an agent class.

    Raises:
        ConfigError: there is no such module or class, or it is no agent that can be made without
            arguments.
    """
    try:
        module = importlib.import_module(target.module)
    except ImportError as error:
        raise ConfigError("agent", f"cannot import {target.module!r}: {error}") from error
    found = getattr(module, target.class_name, None)
    if found is None:
        raise ConfigError("agent", f"module {target.module!r} has no {target.class_name!r}")
    if not (isinstance(found, type) and issubclass(found, Agent)):
        raise ConfigError(
            "agent", f"{target.module}:{target.class_name} is not a subclass of Agent"
        )
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        problem = f"{target.module}:{target.class_name} cannot be made without arguments: {error}"
        raise ConfigError("agent", problem) from error
    return found
