"""Copies of what one agent of a process hands to another, as shallow as is safe."""

from __future__ import annotations

import copy
import typing
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

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


_set_fields, _set_fields_set, _set_extra, _set_private = (
    pydantic.BaseModel.__dict__[name].__set__
    for name in (
        "__dict__",
        "__pydantic_fields_set__",
        "__pydantic_extra__",
        "__pydantic_private__",
    )
)


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
        inside = value.__dict__.copy()
        for name, copier in changeable:
            inside[name] = copier(inside[name])
        # As `BaseModel.__copy__` does it, which takes four times as long.
        made = new(kind)
        _set_fields(made, inside)
        _set_fields_set(made, value.__pydantic_fields_set__.copy())
        _set_extra(made, None)
        _set_private(made, None)
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
