"""Finds the Python type behind a payload's name on the wire.

A name is looked up among plain types and those that handlers of this process's agent classes
accept or return: an explicit table, never a search through modules by a peer's word.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import ConfigError, InvalidMessage
from ..wire import buffer_type
from .agent import Agent, handlers_of
from .payload import PayloadType, payload_type

__all__ = ["TypeTable"]

_PLAIN = (str, bytes, bytearray, memoryview, int, float, bool, type(None), list, dict, tuple)


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

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known = {kind.__name__: payload_type(kind) for kind in _PLAIN}

    def declare(self, kind: PayloadType) -> None:
        """Have `find` answer with this type for its name."""
        self._known[kind.name] = kind

    def find(self, name: str) -> PayloadType:
        """Return the type of that name.

        Raises:
            InvalidMessage: this process declares no type of the name, or several.
        """
        known = self._known.get(name)
        if known is not None:
            return known
        if (array := buffer_type(name)) is not None:
            return payload_type(array)
        matches = {found.kind: found for found in _declared() if found.name == name}
        if len(matches) != 1:
            how_many = "several types" if matches else "no type"
            raise InvalidMessage(
                name,
                f"this process declares {how_many} of that name; name it with types= or returns=",
            )
        (self._known[name],) = matches.values()
        return self._known[name]
