"""Finds the Python type behind a payload's name on the wire.

A name is looked up among plain types and those that handlers of this process's agent classes
accept or return: an explicit table, never a search through modules by a peer's word.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import ConfigError, InvalidMessage
from ..wire import buffer_type
from .agent import Agent, handlers_of
from .payload import PLAIN, SCHEMA_MARK, PayloadType, payload_type

__all__ = ["TypeTable"]


def _agent_classes(kind: type[Agent]) -> Iterator[type[Agent]]:
    for child in kind.__subclasses__():
        yield child
        yield from _agent_classes(child)


def _declared() -> Iterator[PayloadType]:
    for kind in _agent_classes(Agent):
        try:
            specs = handlers_of(kind)
        except ConfigError:
            continue
        for spec in specs.values():
            yield spec.accepts
            yield from spec.returns


class TypeTable:
    """Payload types by name."""

    __slots__ = ("_known", "_plain")

    def __init__(self) -> None:
        self._plain: PayloadType | None = None
        self._known = {kind.__name__: payload_type(kind) for kind in PLAIN}

    def declare(self, kind: PayloadType) -> None:
        """Have `find` answer with this type for its name, whatever version is asked for."""
        self._known[kind.name] = self._known[kind.schema] = kind

    def read_plain(self) -> None:
        """Have `find` answer for every name with a type that takes any plain value."""
        self._plain = payload_type(object)

    def find(self, schema: str) -> PayloadType:
        """Return the type with that name and fingerprint, or the one type of the name.

        Raises:
            InvalidMessage: this process declares no type of the name, or several others.
        """
        known = self._plain or self._known.get(schema)
        if known is not None:
            return known
        name = schema.partition(SCHEMA_MARK)[0]
        if name in self._known:
            return self._known[name]
        if (array := buffer_type(name)) is not None:
            return payload_type(array)
        declared = [found for found in _declared() if found.name == name]
        same = [found for found in declared if found.schema == schema]
        matches = {found.kind: found for found in same[:1] or declared}
        if len(matches) != 1:
            how_many = "several types" if matches else "no type"
            raise InvalidMessage(
                name,
                f"this process declares {how_many} of that name; name it with types= or returns=",
            )
        (self._known[schema],) = matches.values()
        return self._known[schema]
