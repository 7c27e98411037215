"""Random JSON schemas whose answers are short, by seed."""

from __future__ import annotations

import random
from typing import Any

__all__ = ["random_schema"]

_WORDS = ("tide", "moon", "port", "hour", "häfen", 'a "quoted" one', "back\\slash", "new\nline")


def random_schema(seed: int) -> dict[str, Any]:
    """Return a schema; the same for the same seed."""
    pick = random.Random(seed)
    if seed % 5:
        return _schema(pick, 3)
    inner, item = _schema(pick, 2), {"$ref": "#/$defs/item"}
    return {
        "$defs": {"item": inner},
        "type": "object",
        "properties": {"first": item, "rest": {"type": "array", "items": item, "maxItems": 2}},
        "required": ["first", "rest"],
        "additionalProperties": False,
    }


def _schema(pick: random.Random, depth: int) -> dict[str, Any]:
    leaves = [_enum, _integer, _string, _constant, _pattern]
    nodes = [_object, _object, _array, _any_of] if depth else []
    return pick.choice(leaves + nodes)(pick, depth)


def _enum(pick: random.Random, depth: int) -> dict[str, Any]:
    values: list[object] = [*pick.sample(_WORDS, 3), None, True, 1.5, {"a": [1]}]
    return {"enum": pick.sample(values, pick.randint(1, 4))}


def _constant(pick: random.Random, depth: int) -> dict[str, Any]:
    return {"const": pick.choice([*_WORDS, 0, False, None, ["x", {}]])}


def _integer(pick: random.Random, depth: int) -> dict[str, Any]:
    low = pick.randint(-500, 500)
    return {"type": "integer", "minimum": low, "maximum": low + pick.randint(0, 400)}


def _string(pick: random.Random, depth: int) -> dict[str, Any]:
    low = pick.randint(0, 3)
    return {"type": "string", "minLength": low, "maxLength": low + pick.randint(0, 8)}


def _pattern(pick: random.Random, depth: int) -> dict[str, Any]:
    return {"type": "string", "pattern": pick.choice(["^[a-c]{2,5}$", "^\\d{3}-x$", "^(up|down)$"])}


def _object(pick: random.Random, depth: int) -> dict[str, Any]:
    names = pick.sample(_WORDS, pick.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: _schema(pick, depth - 1) for name in names},
        "required": pick.sample(names, pick.randint(0, len(names))),
        "additionalProperties": False,
    }


def _array(pick: random.Random, depth: int) -> dict[str, Any]:
    low = pick.randint(0, 2)
    limits = {"minItems": low, "maxItems": low + pick.randint(0, 2)}
    return {"type": "array", "items": _schema(pick, depth - 1), **limits}


def _any_of(pick: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_schema(pick, depth - 1) for _ in range(pick.randint(1, 3))]}
