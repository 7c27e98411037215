"""Safetensors files: reading them mapped, writing them in a chosen order.

Read by hand because tensors that lie behind one another in the file can then be fused without a
copy: a converted model stores q, k and v, and gate and up, as neighbours, and starts in no time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from agentbus.errors import ModelBroken

from .config import read_json

__all__ = ["TensorPlan", "Weights", "weight_files", "write_safetensors"]

MAX_HEADER_BYTES = 100 * 1000 * 1000
"""Longest header, as the format's own specification bounds it."""

_ALIGNMENT = 64
_MAX_DIMENSIONS = 8
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor's place within `data`, the mapped file behind its header. `begin` in bytes."""

    path: Path
    data: torch.Tensor
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    def tensor(self, *, rows: int | None = None, end: int | None = None) -> torch.Tensor:
        """View the tensor; with `rows` and `end`, what begins here and goes on to `end`."""
        shape = self.shape if rows is None else (rows, *self.shape[1:])
        raw = self.data[self.begin : end or self.end]
        if raw.storage_offset() % self.dtype.itemsize:
            raw = raw.clone()  # not aligned for its type
        return raw.view(self.dtype).view(shape)


def _read_header(path: Path, file: BinaryIO, size: int) -> tuple[Mapping[str, object], int]:
    """Return the header, and where the data begins."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise ModelBroken(str(path), "it is cut off or not a safetensors file; download it again")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise ModelBroken(str(path), "its header is damaged; download it again") from error
    if not isinstance(header, dict):
        raise ModelBroken(str(path), "its header is damaged; download it again")
    return header, 8 + length


def _entry(path: Path, data: torch.Tensor, name: str, value: object) -> _Entry:
    try:
        if not isinstance(value, dict):
            raise TypeError("not an object")
        dtype = _DTYPES.get(value["dtype"])
        shape = tuple(int(n) for n in value["shape"][:_MAX_DIMENSIONS])
        begin, end = (int(n) for n in value["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelBroken(str(path), f"its entry for {name!r} is damaged") from error
    if dtype is None:
        raise ModelBroken(
            str(path), f"{name!r} is stored as {value['dtype']!r}; use {', '.join(_DTYPES)}"
        )
    expected = dtype.itemsize
    for n in shape:
        expected *= n
    if min(shape, default=1) <= 0 or begin < 0 or end - begin != expected:
        raise ModelBroken(str(path), f"its entry for {name!r} is damaged")
    if end > len(data):
        raise ModelBroken(str(path), "it is cut off; download it again")
    return _Entry(path, data, dtype, shape, begin, end)


def _open_file(path: Path) -> dict[str, _Entry]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header, start = _read_header(path, file, size)
        mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        raise ModelBroken(str(path), f"it cannot be read ({error})") from error
    data = mapped[start:]
    names = (name for name in header if name != "__metadata__")
    return {name: _entry(path, data, name, header[name]) for name in names}


def weight_files(folder: Path) -> Sequence[Path]:
    """Return the files that a folder's weights are read from, all others passed over.

    Raises:
        ModelBroken: one is missing, or the index that names them is damaged.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise ModelBroken(str(index), "it has no 'weight_map'; download it again")
    names = sorted({Path(str(name)).name for name in shards.values()})
    for name in names:
        if not (folder / name).is_file():
            raise ModelBroken(str(folder), f"{name} is missing; download it")
    return [folder / name for name in names]


class Weights:
    """A model's tensors by name, each given out once, as `dtype` on `device`."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        """Map the folder's files.

        Raises:
            ModelBroken: one is cut off, damaged or missing.
        """
        self._folder = folder
        self._dtype = dtype
        self._device = device
        self._entries: dict[str, _Entry] = {}
        for path in weight_files(folder):
            self._entries.update(_open_file(path))

    def has(self, name: str) -> bool:
        """Return whether a tensor is there and was not taken yet."""
        return name in self._entries

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a tensor of that shape.

        Raises:
            ModelBroken: it is missing or has another shape.
        """
        return self._finish(self._take(name, shape).tensor())

    def fuse(self, parts: Sequence[tuple[str, tuple[int, ...]]]) -> torch.Tensor:
        """Return tensors joined along their first dimension. Raises as `take` does."""
        entries = [self._take(name, shape) for name, shape in parts]
        first, last = entries[0], entries[-1]
        pairs = itertools.pairwise(entries)
        if all(a.data is b.data and a.end == b.begin and a.dtype == b.dtype for a, b in pairs):
            rows = sum(entry.shape[0] for entry in entries)
            return self._finish(first.tensor(rows=rows, end=last.end))
        return torch.cat([self._finish(entry.tensor()) for entry in entries])

    def refuse_rest(self, *, except_for: Callable[[str], bool]) -> None:
        """Check that nothing was left over: a weight that is not used means another model.

        Raises:
            ModelBroken: something was.
        """
        for name, entry in self._entries.items():
            if not except_for(name):
                raise ModelBroken(
                    str(entry.path), f"it holds {name!r}, which this engine does not know"
                )

    def _take(self, name: str, shape: tuple[int, ...]) -> _Entry:
        entry = self._entries.pop(name, None)
        if entry is None:
            raise ModelBroken(str(self._folder), f"its weights lack {name!r}")
        if entry.shape != shape:
            raise ModelBroken(
                str(entry.path), f"{name!r} has shape {entry.shape}, config.json says {shape}"
            )
        return entry

    def _finish(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device=self._device, dtype=self._dtype)


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor to be written: its float32 values are made when their turn comes."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], bytes]


def write_safetensors(path: Path, plans: Iterable[TensorPlan]) -> None:
    """Write float32 tensors, in the order given, one in memory at a time."""
    plans = list(plans)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for plan in plans:
        size = 4
        for n in plan.shape:
            size *= n
        header[plan.name] = {
            "dtype": "F32",
            "shape": list(plan.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(8 + len(encoded)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for plan in plans:
            file.write(plan.values())
