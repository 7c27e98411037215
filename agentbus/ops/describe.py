"""What an agent handles, as JSON schemas: for tools that do not have its types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pydantic

from ..client import HandlerSpec

__all__ = ["AgentDescription", "HandlerDescription", "describe_handlers"]


@dataclass(frozen=True, slots=True)
class HandlerDescription:
    """One handler: the name of the type that it accepts, and that type's JSON schema as JSON."""

    accepts: str
    schema: str
    streams: bool
    """Whether it answers part by part."""


@dataclass(frozen=True, slots=True)
class AgentDescription:
    """All that an agent handles."""

    name: str
    role: str
    handlers: tuple[HandlerDescription, ...]


def describe_handlers(specs: Sequence[HandlerSpec]) -> tuple[HandlerDescription, ...]:
    """Return what a program must know to send what these handlers accept."""
    return tuple(
        HandlerDescription(spec.accepts.name, _schema(spec.accepts.kind), spec.streams)
        for spec in specs
    )


def _schema(kind: Any) -> str:
    """Return a type's JSON schema; one that fits anything where a type has none."""
    try:
        schema = pydantic.TypeAdapter(kind).json_schema()
    except pydantic.errors.PydanticInvalidForJsonSchema:
        schema = {}
    return orjson.dumps(schema).decode()
