"""Arrays, tensors and large bytes as frames of their own, behind the msgpack that refers to them.

In the msgpack frame, an ext type stands in a buffer's place: [index of its frame, form, dtype,
shape]. The bytes are never encoded; whoever receives them gets a view of them where the form has
views. Bytes are little-endian and dense, in C order. numpy and torch are used where the process has
them: who sends an array has imported its library, who receives one imports it then.

A tensor cannot be read-only: what is written to a received one stays in this process, and the
memory that it views belongs to it alone.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import msgpack

from ..errors import InvalidMessage
from .codec import Buffer
from .shared import note_written

__all__ = ["Frames", "buffer_type", "copy_buffers", "is_buffer_type", "pack", "unpack_frames"]

Frames = tuple[Buffer, ...]
"""A payload: msgpack first, then the buffers that it refers to."""

_EXT = 1
_LARGE = 64 * 1024
"""`bytes` from this size have a frame of their own."""
_MAX_DIMENSIONS = 32
_FIELDS = 4
_SCRATCH_BYTES = 4096
_LEAVES = frozenset([str, int, float, bool, type(None)])
_TYPES = {"ndarray": ("numpy", "ndarray"), "Tensor": ("torch", "Tensor")}

_ITEM_BYTES = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
    "bfloat16": 2,
}
_NUMPY_KINDS = {"bool": "b", "int": "i", "uint": "u", "float": "f", "complex": "c"}
_NOT_NUMPY = "bfloat16"


def is_buffer_type(kind: Any) -> bool:
    """Tell whether values of this very type travel as frames of their own."""
    return kind in (bytearray, memoryview) or any(
        kind is getattr(sys.modules.get(module), name, None) for module, name in _TYPES.values()
    )


def buffer_type(name: str) -> Any:
    """Return the array type of that name on the wire; None if there is none.

    Raises:
        InvalidMessage: its library is not installed here.
    """
    found = _TYPES.get(name)
    return None if found is None else getattr(_library(found[0]), found[1])


def copy_buffers(frames: Frames) -> Frames:
    """Return a payload whose buffers are shared with nobody."""
    return (frames[0], *(bytes(frame) for frame in frames[1:]))


def pack(plain: Any, default: Callable[[Any], Any]) -> Frames:
    """Write a value; `default` turns what is neither plain nor a buffer into something that is.

    The frames are views of the value's own memory, which must not change until they are sent.

    Raises:
        InvalidMessage: an array is not of a kind that can be sent.
    """
    frames: list[Buffer] = [b""]

    def reduce(value: Any) -> Any:
        reduced = _put_foreign(value, frames)
        return default(value) if reduced is None else reduced

    packer = msgpack.Packer(default=reduce, buf_size=_SCRATCH_BYTES)
    frames[0] = packer.pack(_lift(plain, frames))
    return tuple(frames)


def _lift(value: Any, frames: list[Buffer]) -> Any:
    """Put buffers that msgpack would write itself into frames; it calls for all others."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict:
        return {key: _lift(item, frames) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [item if type(item) in _LEAVES else _lift(item, frames) for item in value]
    if kind is bytes and len(value) >= _LARGE:
        return _put(frames, value, "bytes")
    if kind is bytearray:
        return _put(frames, memoryview(value), "bytearray")
    if kind is memoryview:
        return _put(frames, _dense(value), "memoryview")
    return value


def _dense(view: memoryview) -> Buffer:
    if view.nbytes == 0 or not view.c_contiguous:
        return view.tobytes()
    return view.cast("B")


def _put(frames: list[Buffer], frame: Buffer, form: str, dtype: str = "", shape: Any = ()) -> Any:
    """Append a frame, and return what stands for it in the msgpack."""
    frames.append(frame)
    return msgpack.ExtType(_EXT, msgpack.packb((len(frames) - 1, form, dtype, tuple(shape))))


def _put_foreign(value: Any, frames: list[Buffer]) -> Any:
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _put_array(numpy, value, frames)
    if torch is not None and isinstance(value, torch.Tensor):
        return _put_tensor(torch, value, frames)
    return None


def _put_array(numpy: Any, array: Any, frames: list[Buffer]) -> Any:
    if type(array) is not numpy.ndarray:
        raise InvalidMessage(type(array).__name__, "only plain arrays can be sent: numpy.asarray")
    name = array.dtype.name
    if name not in _ITEM_BYTES or name == _NOT_NUMPY:
        raise InvalidMessage("ndarray", f"the dtype {name} cannot be sent")
    dense = numpy.asarray(array, dtype=_numpy_code(name), order="C")
    return _put(frames, dense.reshape(-1).view("u1").data, "numpy", name, array.shape)


def _put_tensor(torch: Any, tensor: Any, frames: list[Buffer]) -> Any:
    name = str(tensor.dtype).removeprefix("torch.")
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        raise InvalidMessage(type(tensor).__name__, "only plain dense tensors can be sent")
    if tensor.device.type != "cpu":
        raise InvalidMessage("Tensor", f"it is on {tensor.device.type}; only the CPU's can be sent")
    if name not in _ITEM_BYTES:
        raise InvalidMessage("Tensor", f"the dtype {name} cannot be sent")
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    data = dense.reshape(-1).view(torch.uint8).numpy().data
    return _put(frames, data, "torch", name, tensor.shape)


def _numpy_code(name: str) -> str:
    kind = name.rstrip("0123456789")
    return f"<{_NUMPY_KINDS[kind]}{_ITEM_BYTES[name]}"


def unpack_frames(frames: Sequence[Buffer]) -> Any:
    """Read what `pack` wrote; arrays, tensors and memoryviews are views of their frames.

    Raises:
        InvalidMessage: a frame is missing, or not what the msgpack says about it, or left over.
        ValueError, TypeError: the first frame is not msgpack.
    """
    if not frames:
        raise InvalidMessage("payload", "there is none")
    left: dict[int, Buffer] = dict(enumerate(frames))
    del left[0]

    def hook(code: int, data: bytes) -> Any:
        if code != _EXT:
            raise InvalidMessage("ext type", f"{code} is unknown")
        index, form, dtype, shape = _read_reference(data)
        frame = left.pop(index, None)
        if frame is None:
            raise InvalidMessage("buffer", f"there is no frame {index}, or it was used before")
        return _view(form, frame, dtype, shape)

    plain = msgpack.unpackb(frames[0], strict_map_key=False, ext_hook=hook)
    if left:
        raise InvalidMessage("buffer", f"{len(left)} frames are left over")
    return plain


def _read_reference(data: bytes) -> tuple[int, str, str, tuple[int, ...]]:
    fields = msgpack.unpackb(data, use_list=False, max_array_len=_MAX_DIMENSIONS)
    if type(fields) is tuple and len(fields) == _FIELDS:
        index, form, dtype, shape = fields
        if type(index) is int and type(form) is type(dtype) is str and _is_shape(shape):
            return index, form, dtype, shape
    raise InvalidMessage("buffer", "its reference is not [index, form, dtype, shape]")


def _is_shape(shape: object) -> bool:
    return type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)


def _view(form: str, frame: Buffer, dtype: str, shape: tuple[int, ...]) -> Any:
    make = _FORMS.get(form)
    if make is None:
        raise InvalidMessage("buffer", f"the form {form!r} is unknown")
    return make(frame, dtype, shape)


def _view_array(frame: Buffer, dtype: str, shape: tuple[int, ...]) -> Any:
    if dtype == _NOT_NUMPY:
        raise InvalidMessage("ndarray", f"the dtype {dtype!r} is unknown")
    _check_size("ndarray", frame, dtype, shape)
    numpy = _library("numpy")
    try:
        array = numpy.ndarray(shape, _numpy_code(dtype), buffer=frame)
    except (ValueError, TypeError) as error:
        raise InvalidMessage("ndarray", f"the shape {shape}: {error}") from error
    if not array.flags.aligned:  # its frame began at an odd place of what a socket brought
        array = array.copy()
    array.flags.writeable = False
    return array


def _view_tensor(frame: Buffer, dtype: str, shape: tuple[int, ...]) -> Any:
    _check_size("Tensor", frame, dtype, shape)
    torch = _library("torch")
    item = getattr(torch, dtype)
    try:
        if not len(frame):
            return torch.empty(shape, dtype=item)
        tensor = _tensor_on(torch, frame, item).reshape(shape)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidMessage("Tensor", f"{dtype} of shape {shape}: {error}") from error
    return tensor if tensor.data_ptr() % _ITEM_BYTES[dtype] == 0 else tensor.clone()


def _tensor_on(torch: Any, frame: Buffer, item: Any) -> Any:
    if type(frame) is bytes:  # small, and possibly one of the interpreter's own constants
        return torch.frombuffer(bytearray(frame), dtype=item)
    note_written(memoryview(frame))
    with warnings.catch_warnings():
        # It warns of what the module's docstring says: writing is possible, and harms nobody.
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(frame, dtype=item)


def _check_size(what: str, frame: Buffer, dtype: str, shape: tuple[int, ...]) -> None:
    item = _ITEM_BYTES.get(dtype)
    if item is None:
        raise InvalidMessage(what, f"the dtype {dtype!r} is unknown")
    if math.prod(shape) * item != len(frame):
        problem = f"{len(frame)} bytes are not {dtype} of shape {shape}"
        raise InvalidMessage(what, problem)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise InvalidMessage(name, "is not installed in the process that received it") from None


_FORMS: dict[str, Callable[[Buffer, str, tuple[int, ...]], Any]] = {
    "numpy": _view_array,
    "torch": _view_tensor,
    "bytes": lambda frame, _, __: bytes(frame),
    "bytearray": lambda frame, _, __: bytearray(frame),
    "memoryview": lambda frame, _, __: memoryview(frame),
}
