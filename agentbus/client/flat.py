"""Models that are written as they are: all fields are what msgpack has a form for.

For such a model pydantic's serializer makes a copy of `__dict__`, field by field, and nothing
else; it takes longer than writing the bytes does. What a user or a later pydantic says about a
field's serialization makes the model an ordinary one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import pydantic

__all__ = ["flat_dump", "is_atom"]

_ATOMS: Final = frozenset(("str", "int", "float", "bool", "none"))
_INSIDE: Final = {
    "nullable": ("schema",),
    "default": ("schema",),
    "list": ("items_schema",),
    "dict": ("keys_schema", "values_schema"),
}
"""Where a schema of this type keeps those of what it holds."""
_OF_FIELDS: Final = frozenset(("type", "schema", "metadata", "frozen", "validation_alias"))


def flat_dump(
    adapter: pydantic.TypeAdapter[Any], dump: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """Return what makes a model's plain form: `dump`, or something faster with the same result."""
    if is_atom(adapter):
        return _as_it_is
    fields = _flat_fields(adapter.core_schema)
    if not fields:
        return dump
    count = len(fields)

    def dumped(value: pydantic.BaseModel) -> Any:
        inside = value.__dict__
        # More or less than the fields stands there if something was cached or left out.
        return inside if len(inside) == count else dump(value)

    return dumped


def is_atom(adapter: pydantic.TypeAdapter[Any]) -> bool:
    """Tell whether every value of exactly this type is valid, and written as it is."""
    schema = adapter.core_schema
    return len(schema) == 1 and schema["type"] in _ATOMS


def _as_it_is(value: Any) -> Any:
    return value


def _flat_fields(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a model that is flat; none for anything else."""
    inner = schema.get("schema", {})
    if schema["type"] != "model" or schema.get("root_model") or "serialization" in schema:
        return {}
    if inner.get("type") != "model-fields" or "serialization" in inner:
        return {}
    if schema.get("config", {}).get("extra_fields_behavior") == "allow":
        return {}
    if inner.get("computed_fields") or "extras_schema" in inner:
        return {}
    fields: Mapping[str, Any] = inner["fields"]
    return fields if all(map(_is_flat_field, fields.values())) else {}


def _is_flat_field(field: Mapping[str, Any]) -> bool:
    return _OF_FIELDS.issuperset(field) and _is_flat(field["schema"])


def _is_flat(schema: Mapping[str, Any]) -> bool:
    if "serialization" in schema:
        return False
    inside = _INSIDE.get(schema["type"])
    if inside is None:
        return schema["type"] in _ATOMS
    return all(name in schema and _is_flat(schema[name]) for name in inside)
