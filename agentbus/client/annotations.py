"""What a type's annotations say about its values."""

from __future__ import annotations

import datetime
import decimal
import enum
import types
import typing
import uuid
from dataclasses import fields, is_dataclass
from typing import Any

import pydantic

__all__ = ["has_immutable_fields", "holds_buffers", "is_immutable"]

_ATOMS = (
    str,
    int,
    float,
    bool,
    bytes,
    complex,
    type(None),
    enum.Enum,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
)
_IMMUTABLE_ORIGINS = (tuple, frozenset, typing.Union, types.UnionType)


def is_immutable(annotation: Any) -> bool:
    """Tell whether no value of this type can be changed, as far as annotations tell."""
    if annotation is None or annotation is Ellipsis:
        return True
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return True
    if origin is typing.Annotated:
        return is_immutable(typing.get_args(annotation)[0])
    if origin in _IMMUTABLE_ORIGINS:
        return all(is_immutable(argument) for argument in typing.get_args(annotation))
    if not isinstance(annotation, type):
        return False
    return issubclass(annotation, _ATOMS) or _is_frozen(annotation)


def _is_frozen(kind: type) -> bool:
    if issubclass(kind, pydantic.BaseModel):
        return bool(kind.model_config.get("frozen")) and has_immutable_fields(kind)
    if is_dataclass(kind):
        return bool(kind.__dataclass_params__.frozen) and has_immutable_fields(kind)  # type: ignore[attr-defined]
    return False


def has_immutable_fields(kind: type) -> bool:
    """Tell whether no field of a model or dataclass holds what can be changed."""
    if issubclass(kind, pydantic.BaseModel):
        open_ended = kind.model_config.get("extra") == "allow" or kind.__private_attributes__
        annotations = [f.annotation for f in kind.model_fields.values()]
        return not open_ended and all(is_immutable(a) for a in annotations)
    try:
        hints = typing.get_type_hints(kind)
    except NameError:
        return False
    return is_dataclass(kind) and all(is_immutable(hints[f.name]) for f in fields(kind))


def holds_buffers(annotation: Any) -> bool:
    """Tell whether a value of this type may hold arrays or bytes, as far as annotations tell."""
    origin = typing.get_origin(annotation)
    if annotation is None or annotation is Ellipsis or origin is typing.Literal:
        return False
    if origin is typing.Annotated:
        return holds_buffers(typing.get_args(annotation)[0])
    if origin in (list, set, dict, *_IMMUTABLE_ORIGINS):
        return any(holds_buffers(argument) for argument in typing.get_args(annotation))
    if not isinstance(annotation, type) or issubclass(annotation, bytes):
        return True
    if issubclass(annotation, pydantic.BaseModel):
        is_open = annotation.model_config.get("extra") == "allow"
        return is_open or any(holds_buffers(f.annotation) for f in annotation.model_fields.values())
    if is_dataclass(annotation):
        return _dataclass_holds_buffers(annotation)
    return not issubclass(annotation, _ATOMS)


def _dataclass_holds_buffers(kind: type) -> bool:
    try:
        hints = typing.get_type_hints(kind)
    except NameError:
        return True
    return any(holds_buffers(hints[f.name]) for f in fields(kind))
