"""Payload types: their names on the wire, their bytes, and copies between agents of one process.

pydantic validates at the edge: when bytes become an object, or when sender's and receiver's types
differ. An object that is passed within the process is copied once per receiver unless it is
immutable, so that no agent can change what another holds.
"""

from __future__ import annotations

import base64
import copy
import typing
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final

import msgpack
import orjson
import pydantic
import pydantic_core
from blake3 import blake3

from ..errors import InvalidMessage
from ..messages import Kind
from ..wire import Frames, JoinKey, copy_buffers, is_buffer_type, pack, unpack_frames
from .annotations import holds_buffers
from .copies import copier
from .flat import flat_dump, is_atom

__all__ = ["PLAIN", "SCHEMA_MARK", "PayloadType", "payload_type", "problem_of"]

PLAIN: Final = (str, bytes, bytearray, memoryview, int, float, bool, type(None), list, dict, tuple)
"""Types that every process knows by name."""
SCHEMA_MARK: Final = "#"
"""Stands on the wire between a type's name and its fingerprint."""
_SCRATCH_BYTES: Final = 4096
"""First size of a packer's buffer, which is kept from message to message and grows as needed."""


def _instances(schema: Any) -> Iterator[Any]:
    """Yield the types that a pydantic schema checks for and knows nothing else about."""
    if isinstance(schema, dict):
        if schema.get("type") == "is-instance":
            yield schema["cls"]
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for part in schema:
            yield from _instances(part)


def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    """Make pydantic's adapter of a type, which may be made of buffers too."""
    try:
        return pydantic.TypeAdapter(kind)
    except pydantic.PydanticSchemaGenerationError:
        # Through `Any`, a dataclass takes the settings from here.
        schema = pydantic.GetPydanticSchema(lambda _, handler: handler.generate_schema(kind))
        config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        adapter = pydantic.TypeAdapter(typing.Annotated[Any, schema], config=config)
        if all(is_buffer_type(found) for found in _instances(adapter.core_schema)):
            return adapter
        raise


def _fingerprint(kind: Any, adapter: pydantic.TypeAdapter[Any]) -> str:
    """Return `#` and some characters that change with the type's JSON schema.

    Plain types have none: their names say all. Neither have types that JSON schema cannot describe.
    Two types that share it by chance are merely taken for one another, and validated as always.
    """
    if kind in PLAIN:
        return ""
    try:
        schema = adapter.json_schema()
    except (pydantic.PydanticUserError, pydantic.errors.PydanticInvalidForJsonSchema):
        return ""
    digest = blake3(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)).digest(3)
    return SCHEMA_MARK + base64.urlsafe_b64encode(digest).decode()


class PayloadType:
    """One type of payload: its names, bytes and copies."""

    __slots__ = (
        "_copy",
        "_dump",
        "_holds_buffers",
        "_is_atom",
        "_pack",
        "_validate",
        "kind",
        "name",
        "parts_key",
        "replies_key",
        "schema",
    )

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.name: str = getattr(kind, "__name__", None) or str(kind)
        """By it handlers are chosen, so that a newer or older version of a type still finds them."""
        try:
            self._copy = copier(kind)
            self._holds_buffers = holds_buffers(kind)
        except RecursionError:  # a type that contains itself
            self._copy = copy.deepcopy
            self._holds_buffers = True
        try:
            adapter = _adapter(kind)
        except (pydantic.PydanticSchemaGenerationError, pydantic.PydanticUserError) as error:
            problem = "cannot be sent; use a pydantic model, a dataclass or a plain type"
            raise InvalidMessage(self.name, problem) from error
        self.schema = f"{self.name}{_fingerprint(kind, adapter)}"
        """The name on the wire: it tells types of one name, and versions of one type, apart."""
        self.parts_key: JoinKey = (Kind.PARTS, "", "", self.schema, 0)
        """Under it parts of this type leave a link together, of whatever streams."""
        self.replies_key: JoinKey = (Kind.REPLIES, "", "", self.schema, 0)
        """The same for replies."""
        self._is_atom = is_atom(adapter)
        self._dump = flat_dump(adapter, adapter.serializer.to_python)
        self._validate: Callable[[Any], Any] = adapter.validator.validate_python
        self._pack: Callable[[Any], bytes] = msgpack.Packer(
            default=_plain, buf_size=_SCRATCH_BYTES
        ).pack

    def encode(self, value: Any) -> Frames:
        """Return the payload frames of `value`: msgpack, and the buffers that it refers to.

        Buffers are views of the value's own: they must not change until they are sent.

        Raises:
            InvalidMessage: the value cannot be written.
        """
        try:
            plain = self._dump(value)
            if self._holds_buffers:
                return pack(plain, _plain)
            return (self._pack(plain),)
        except (
            TypeError,
            ValueError,
            OverflowError,
            pydantic_core.PydanticSerializationError,
        ) as e:
            raise InvalidMessage(self.name, f"cannot be written: {e}") from e

    def decode(self, frames: Frames) -> Any:
        """Read the payload frames of one value and validate it.

        Raises:
            InvalidMessage: the bytes are not a value of this type.
        """
        return self._validated(self._unpack(frames))

    def decode_batch(self, frames: Frames) -> list[Any]:
        """Read what `join_batch` made of values of this type, or one value with its buffers.

        Raises:
            InvalidMessage: the bytes are not an array of such values.
        """
        if len(frames) > 1:
            return [self.decode(frames)]
        plain = self._unpack(frames)
        if type(plain) is not list:
            raise InvalidMessage(self.name, "a batch of parts is an array")
        if self._is_atom:
            kind = self.kind
            return [value if type(value) is kind else self._validated(value) for value in plain]
        validate = self._validate
        try:
            return [validate(value) for value in plain]
        except Exception:  # noqa: BLE001 - what is wrong is said below
            return [self._validated(value) for value in plain]

    def _unpack(self, frames: Frames) -> Any:
        try:
            # Each length is bounded by the frame that holds it, which the link has bounded.
            if len(frames) == 1:
                return msgpack.unpackb(frames[0], strict_map_key=False)
            return unpack_frames(frames)
        except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
            raise InvalidMessage(self.name, "the bytes are not msgpack") from error

    def _validated(self, plain: Any) -> Any:
        try:
            return self._validate(plain)
        except pydantic.ValidationError as error:
            raise InvalidMessage(self.name, problem_of(error)) from error
        except Exception as error:
            # A validator of the user's own may raise anything: its message fails, not the link.
            raise InvalidMessage(self.name, f"its validator raised {error!r}") from error

    def receive(self, value: Any) -> Any:
        """Take over an object that another agent of this process sent.

        Raises:
            InvalidMessage: the value does not fit this type.
        """
        if type(value) is self.kind:
            try:
                return self._copy(value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise InvalidMessage(self.name, f"cannot be copied: {error}") from error
        return self.decode(copy_buffers(payload_type(type(value)).encode(value)))


def problem_of(error: pydantic.ValidationError) -> str:
    """Say which field of a value is wrong, and how many more are."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"]) or "value"
    others = error.error_count() - 1
    return f"{where}: {first['msg']}{f' (and {others} more)' if others else ''}"


def _plain(value: Any) -> Any:
    """Write what msgpack has no form for (times, decimals, sets, …) as pydantic's JSON mode does."""
    return pydantic_core.to_jsonable_python(value)


payload_type: Final[Callable[[Any], PayloadType]] = lru_cache(maxsize=4096)(PayloadType)
"""Returns the payload type of a Python type; raises InvalidMessage if its values cannot be sent."""
