"""GGUF files: metadata, and tensors as float32.

The container is parsed here, with every length bounded, because it is the user's file and because
it is several times faster than the `gguf` package's reader. The quantized formats are unpacked by
that package. Naming tensors as a model does is `convert`'s business.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from agentbus.errors import ModelBroken

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

__all__ = ["GGUFFile", "GGUFTensor", "Metadata"]

Metadata: TypeAlias = Mapping[str, object]

MAX_ENTRIES = 65536
"""Most metadata entries, and most tensors."""
MAX_ITEMS = 4 * 1024 * 1024
"""Most items of one array."""
MAX_STRING_BYTES = 4 * 1024 * 1024

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"} | {
    12: "d"
}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """Where a tensor lies. `shape` is the usual one, rows first; `begin` counts from the file's."""

    shape: tuple[int, ...]
    type: int
    begin: int
    size: int


class _Cursor:
    """Reads little-endian values, refusing lengths that cannot be true."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path = path
        self._file = file
        self._left = size

    def broken(self, problem: str) -> ModelBroken:
        return ModelBroken(str(self._path), problem)

    def read(self, length: int) -> bytes:
        if length > self._left:
            raise self.broken("it is cut off; download it again")
        self._left -= length
        return self._file.read(length)

    def unpack(self, code: str, count: int = 1) -> tuple[object, ...]:
        layout = f"<{count}{code}"
        return struct.unpack(layout, self.read(struct.calcsize(layout)))

    def integer(self, code: str, limit: int, what: str) -> int:
        (value,) = self.unpack(code)
        if not isinstance(value, int) or not 0 <= value <= limit:
            raise self.broken(f"it names {value} {what}, over the limit of {limit}")
        return value

    def string(self) -> str:
        return self.read(self.integer("Q", MAX_STRING_BYTES, "bytes of text")).decode(
            errors="replace"
        )

    def value(self) -> object:
        kind = self.integer("I", 12, "as a type")
        if kind == _ARRAY:
            return self._array()
        return self._items(kind, 1)[0]

    def _array(self) -> Sequence[object]:
        kind = self.integer("I", 12, "as a type")
        return self._items(kind, self.integer("Q", MAX_ITEMS, "items"))

    def _items(self, kind: int, count: int) -> Sequence[object]:
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise self.broken("it holds a list of lists, which no model needs")
        return self.unpack(_SCALARS[kind], count)


class GGUFFile:
    """One file's metadata and tensors; its data is mapped, not read."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            ModelBroken: it is cut off, damaged, or not a GGUF file.
        """
        self._path = path
        self.metadata: dict[str, object] = {}
        self.tensors: dict[str, GGUFTensor] = {}
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                self._read(_Cursor(path, file, size), file, size)
        except OSError as error:
            raise ModelBroken(str(path), f"it cannot be read ({error})") from error

    def _read(self, cursor: _Cursor, file: BinaryIO, size: int) -> None:
        if cursor.read(4) != _MAGIC:
            raise cursor.broken("it is not a GGUF file")
        version = cursor.integer("I", 2**32, "as its version")
        if version not in _VERSIONS:
            raise cursor.broken(f"GGUF version {version} is not supported; supported: 2 and 3")
        tensors = cursor.integer("Q", MAX_ENTRIES, "tensors")
        entries = cursor.integer("Q", MAX_ENTRIES, "entries")
        for _ in range(entries):
            name = cursor.string()
            self.metadata[name] = cursor.value()
        found = [self._tensor_header(cursor) for _ in range(tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise cursor.broken("its alignment is not a number")
        start = -(-file.tell() // alignment) * alignment
        for name, tensor in found:
            placed = GGUFTensor(tensor.shape, tensor.type, start + tensor.begin, tensor.size)
            if placed.begin + placed.size > size:
                raise cursor.broken("it is cut off; download it again")
            self.tensors[name] = placed

    def _tensor_header(self, cursor: _Cursor) -> tuple[str, GGUFTensor]:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name = cursor.string()
        dimensions = cursor.integer("I", 4, "dimensions")
        shape = tuple(cursor.integer("Q", 2**40, "rows") for _ in range(dimensions))[::-1]
        kind = cursor.integer("I", 2**32, "as a type")
        begin = cursor.integer("Q", 2**62, "bytes of offset")
        try:
            per_block, bytes_per_block = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (KeyError, ValueError) as error:
            raise cursor.broken(f"{name!r} is stored in the unknown format {kind}") from error
        count = 1
        for n in shape:
            count *= n
        if not shape or count == 0 or shape[-1] % per_block:
            raise cursor.broken(f"{name!r} has the impossible shape {shape}")
        return name, GGUFTensor(shape, kind, begin, count // per_block * bytes_per_block)

    def values(self, name: str) -> NDArray[numpy.float32]:
        """Unpack a tensor to float32.

        Raises:
            ModelBroken: it is missing, or its format cannot be unpacked.
        """
        import numpy
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        tensor = self.tensors.get(name)
        if tensor is None:
            raise ModelBroken(str(self._path), f"its weights lack {name!r}")
        raw = numpy.memmap(
            self._path, mode="r", dtype=numpy.uint8, offset=tensor.begin, shape=tensor.size
        )
        kind = GGMLQuantizationType(tensor.type)
        plain = {
            GGMLQuantizationType.F32: numpy.float32,
            GGMLQuantizationType.F16: numpy.float16,
        }.get(kind)
        try:
            if plain is not None:
                values = raw.view(plain)
            else:
                values = dequantize(raw.reshape(*tensor.shape[:-1], -1), kind)
        except NotImplementedError as error:
            raise ModelBroken(
                str(self._path), f"{name!r} is stored as {kind.name}, which cannot be unpacked"
            ) from error
        return numpy.ascontiguousarray(values.reshape(tensor.shape), dtype=numpy.float32)
