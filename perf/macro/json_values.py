"""JSON as Python's own parser reads it, with nothing of it lost: to see whether filters lose any."""

from __future__ import annotations

import json

__all__ = ["is_structure", "same_values"]


_NONE = object()


class _Pairs(tuple[tuple[str, object], ...]):
    """A JSON object, unlike an array of arrays."""


def is_structure(text: str) -> bool:
    """Say whether a text is a JSON array or object."""
    return isinstance(_value(text), list | _Pairs)


def same_values(one: str, other: str) -> bool:
    """Say whether texts are JSON of the same value, or lines of it."""
    ours, theirs = (_values(text) for text in (one, other))
    return ours == theirs


def _value(text: str) -> object:
    """Return a JSON text's value, numbers as they are written; `_NONE` for other texts."""
    try:
        return json.loads(
            text,
            object_pairs_hook=_Pairs,
            parse_int=_number,
            parse_float=_number,
            parse_constant=_number,
        )
    except (ValueError, RecursionError):
        return _NONE


def _number(text: str) -> tuple[str]:
    """Return a number as it is written, unlike a string."""
    return (text,)


def _values(text: str) -> object:
    """Return the value of a JSON text, or those of its lines."""
    whole = _value(text)
    return whole if whole is not _NONE else [_value(line) for line in text.split("\n")]
