"""Payload types: their names on the wire, their bytes, and copies between agents of one process.

pydantic validates at the edge: when bytes become an object, or when sender's and receiver's types
differ. An object that is passed within the process is copied once per receiver unless it is
immutable, so that no agent can change what another holds.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

import msgpack
import pydantic
import pydantic_core

from ..errors import InvalidMessage

__all__ = ["PayloadType", "payload_type"]

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


def _is_immutable(annotation: Any) -> bool:
    """Tell whether no value of this type can be changed, as far as annotations tell."""
    if annotation is None or annotation is Ellipsis:
        return True
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return True
    if origin is typing.Annotated:
        return _is_immutable(typing.get_args(annotation)[0])
    if origin in _IMMUTABLE_ORIGINS:
        return all(_is_immutable(argument) for argument in typing.get_args(annotation))
    if not isinstance(annotation, type):
        return False
    return issubclass(annotation, _ATOMS) or _is_frozen(annotation)


def _is_frozen(kind: type) -> bool:
    if issubclass(kind, pydantic.BaseModel):
        return bool(kind.model_config.get("frozen")) and _has_immutable_fields(kind)
    if is_dataclass(kind):
        return bool(kind.__dataclass_params__.frozen) and _has_immutable_fields(kind)  # type: ignore[attr-defined]
    return False


def _has_immutable_fields(kind: type) -> bool:
    if issubclass(kind, pydantic.BaseModel):
        open_ended = kind.model_config.get("extra") == "allow" or kind.__private_attributes__
        annotations = [f.annotation for f in kind.model_fields.values()]
        return not open_ended and all(_is_immutable(a) for a in annotations)
    try:
        hints = typing.get_type_hints(kind)
    except NameError:
        return False
    return is_dataclass(kind) and all(_is_immutable(hints[f.name]) for f in fields(kind))


def _share(value: Any) -> Any:
    return value


def _copy_model(value: Any) -> Any:
    return value.__copy__()


def _copier(kind: Any) -> Callable[[Any], Any]:
    """Choose the cheapest copy that still separates sender and receiver."""
    if _is_immutable(kind):
        return _share
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        return _copy_model if _has_immutable_fields(kind) else copy.deepcopy
    if is_dataclass(kind) and isinstance(kind, type) and _has_immutable_fields(kind):
        return copy.copy
    return copy.deepcopy


class PayloadType:
    """One type of payload: `name` on the wire, bytes, copies."""

    __slots__ = ("_adapter", "_copy", "kind", "name")

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.name: str = getattr(kind, "__name__", None) or str(kind)
        self._copy = _copier(kind)
        try:
            self._adapter = pydantic.TypeAdapter(kind)
        except (pydantic.PydanticSchemaGenerationError, pydantic.PydanticUserError) as error:
            problem = "cannot be sent; use a pydantic model, a dataclass or a plain type"
            raise InvalidMessage(self.name, problem) from error

    def encode(self, value: Any) -> bytes:
        """Return the payload frame of `value`.

        Raises:
            InvalidMessage: the value cannot be written.
        """
        try:
            plain = self._adapter.dump_python(value)
            return typing.cast("bytes", msgpack.packb(plain, default=_plain))
        except (
            TypeError,
            ValueError,
            OverflowError,
            pydantic_core.PydanticSerializationError,
        ) as e:
            raise InvalidMessage(self.name, f"cannot be written: {e}") from e

    def decode(self, frame: bytes | memoryview) -> Any:
        """Read a payload frame and validate it.

        Raises:
            InvalidMessage: the bytes are not a value of this type.
        """
        try:
            # Each length is bounded by the frame that holds it, which the link has bounded.
            plain = msgpack.unpackb(frame, strict_map_key=False)
        except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
            raise InvalidMessage(self.name, "the bytes are not msgpack") from error
        return self.validate(plain)

    def validate(self, plain: Any) -> Any:
        """Turn plain data into a value of this type.

        Raises:
            InvalidMessage: it does not fit; says where.
        """
        try:
            return self._adapter.validate_python(plain)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(step) for step in first["loc"]) or "value"
            raise InvalidMessage(self.name, f"{where}: {first['msg']}") from error

    def receive(self, value: Any) -> Any:
        """Take over an object that another agent of this process sent.

        Raises:
            InvalidMessage: the value does not fit this type.
        """
        if type(value) is self.kind:
            return self._copy(value)
        return self.decode(payload_type(type(value)).encode(value))


def _plain(value: Any) -> Any:
    """Write what msgpack has no form for (times, decimals, sets, …) as pydantic's JSON mode does."""
    return pydantic_core.to_jsonable_python(value)


payload_type: Callable[[Any], PayloadType] = lru_cache(maxsize=4096)(PayloadType)
"""Returns the payload type of a Python type; raises InvalidMessage if its values cannot be sent."""
