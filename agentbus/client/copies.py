"""Copies of what one agent of a process hands to another, as shallow as is safe."""

from __future__ import annotations

import copy
import typing
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, Final

import pydantic

from .annotations import has_immutable_fields, is_immutable

__all__ = ["Copy", "copier"]

Copy = Callable[[Any], Any]


def _share(value: Any) -> Any:
    return value


def _copy_view(value: Any) -> memoryview:
    return memoryview(bytes(value))


def _copy_items(kind: Callable[[Any], Any], item: Copy) -> Copy:
    """Copy a list or set by its items; what is no such thing after all, deeply."""
    if item is _share:
        return lambda value: value.copy() if type(value) is kind else copy.deepcopy(value)
    return lambda value: kind(map(item, value)) if type(value) is kind else copy.deepcopy(value)


def _copy_values(item: Copy) -> Copy:
    """Copy a dict by its values; what is no dict after all, deeply."""

    def copied(value: Any) -> Any:
        if type(value) is not dict:
            return copy.deepcopy(value)
        return dict(value) if item is _share else {key: item(one) for key, one in value.items()}

    return copied


_SLOTS: Final = pydantic.BaseModel.__dict__
_SET_FIELDS_SET: Final = _SLOTS["__pydantic_fields_set__"].__set__
_SET_EXTRA: Final = _SLOTS["__pydantic_extra__"].__set__
_SET_PRIVATE: Final = _SLOTS["__pydantic_private__"].__set__


def _copy_model(kind: type[pydantic.BaseModel]) -> Copy:
    """Copy a model, and within it only those fields that could be changed."""
    if kind.model_config.get("extra") == "allow" or kind.__private_attributes__:
        return copy.deepcopy
    changeable = [
        (name, copier(field.annotation))
        for name, field in kind.model_fields.items()
        if not is_immutable(field.annotation)
    ]
    new = kind.__new__

    def copied(value: pydantic.BaseModel) -> pydantic.BaseModel:
        if type(value) is not kind:
            return copy.deepcopy(value)
        # As `BaseModel.__copy__` does it, which takes four times as long.
        made = new(kind)
        inside = made.__dict__  # is there already; to put another in its place takes longer
        inside.update(value.__dict__)
        for name, copier in changeable:
            inside[name] = copier(inside[name])
        _SET_FIELDS_SET(made, value.__pydantic_fields_set__.copy())
        _SET_EXTRA(made, None)
        _SET_PRIVATE(made, None)
        return made

    return copied


def copier(kind: Any) -> Copy:
    """Choose the cheapest copy that still separates sender and receiver.

    Only types that say what they hold are copied by their parts; all others deeply.
    """
    if is_immutable(kind):
        return _share
    if kind is memoryview:
        return _copy_view
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (list, set) and len(arguments) == 1:
        return _copy_items(origin, copier(arguments[0]))
    if origin is dict and is_immutable(arguments[0]):
        return _copy_values(copier(arguments[1]))
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        return _copy_model(kind)
    if is_dataclass(kind) and isinstance(kind, type) and has_immutable_fields(kind):
        return copy.copy
    return copy.deepcopy
