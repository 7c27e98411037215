"""The kernels of `native/`, compiled for this machine when they are first needed.

What torch has no one operation for costs a CPU several, each with its own pass over memory. Where
the CPU multiplies bfloat16 in AVX-512 (better still, in AMX) and there is a C compiler (`CC`,
perhaps with arguments, or `cc`), these kernels take their place; elsewhere torch's operations do
the same work.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .memory import HugePages
from .native_library import built, find_compiler
from .native_types import NativeModel, Plan, Product

__all__ = [
    "CPUKernels",
    "PackedWeight",
    "attention_kernels",
    "cpu_kernels",
    "partial_size",
    "product_kernels",
    "row_kernels",
]

logger = logging.getLogger(__name__)

_STATE = 16
"""Floats of a partial result before its sums; this and the numbers below are the kernels'."""
LANES = 16
"""Rows between products are whole multiples of it."""
_BLOCK = 64
"""Heads are whole multiples of it."""
_MAX_HEAD_SIZE = 256
_MAX_GROUP = 128
"""Heads that share one head of keys: what `attend` knows of their rows lies on a thread's stack."""
PANEL = 32
"""Inputs and outputs of products are whole multiples of it."""
_PAIR = PANEL * PANEL
"""Numbers of a weight that are packed together."""
_EXPONENTS = 256
_CODES = 16
_MAX_STRAYS = 1 / 16
"""The share of numbers that may have no code: with so many a product takes a quarter longer, and
still less time than oneDNN's."""
_PARALLEL_NUMBERS = 16384
"""Numbers from which several threads are faster than one."""
_MAX_PROBLEM = 500
_PROBLEMS = (
    OSError,  # the library cannot be kept, or loaded
    AttributeError,  # it lacks a function
    RuntimeError,  # there is no home to keep it in
    ValueError,  # the quotes in `CC` do not match
    subprocess.SubprocessError,  # the compiler fails, or takes too long
)


class PackedWeight(NamedTuple):
    """A weight [outputs, inputs] without loss in 12 bits a number; see `weights.h`."""

    pairs: Tensor
    """[pairs, bytes], uint8: PAIR numbers each."""
    exponents: Tensor
    """[32], int16: of each code, where a number has them; twice."""
    first_stray: Tensor
    """[pairs + 1], int32: the number of each pair's first stray."""
    strays: Tensor
    """[strays, 2], int16: places in their pairs, and numbers."""


class _Scratch(threading.local):
    """Memory of a thread, which is kept: fresh memory costs as much as many a product."""

    memory = torch.empty(0, dtype=torch.bfloat16)

    def of(self, numbers: int) -> Tensor:
        """Return memory for so many numbers; what it was given before is overwritten."""
        if len(self.memory) < numbers:
            self.memory = torch.empty(numbers, dtype=torch.bfloat16)
        return self.memory


class CPUKernels:
    """The functions of the library; tensors are bfloat16 and contiguous."""

    def __init__(self, path: Path, *, amx: bool) -> None:
        """Load it.

        Args:
            amx: multiply in tiles; only where the CPU has them and the process may use them.

        Raises:
            OSError: it does not suit this process.
        """
        self._scratch = _Scratch()
        self._memory = HugePages()
        self._loading = threading.Lock()
        pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
        library = ctypes.CDLL(str(path))
        self._attend = library.agentbus_attend
        self._attend.argtypes = [pointer, integer, pointer, pointer]
        self._rms_norm = library.agentbus_rms_norm
        self._rms_norm.argtypes = [*(pointer,) * 3, long, long, ctypes.c_float, integer]
        self._silu_times = library.agentbus_silu_times
        self._silu_times.argtypes = [pointer, pointer, long, long, integer]
        for function in (self._attend, self._rms_norm, self._silu_times):
            function.restype = None
        self._multiply = getattr(library, "agentbus_multiply", None)
        self.amx = amx and self._multiply is not None  # an old compiler does not know AMX
        if self._multiply is not None:
            self._multiply.argtypes = [*(pointer,) * 5, long, integer]
            self._multiply.restype = None
            self._compute = library.agentbus_compute
            self._compute.argtypes = [*(pointer,) * 5, long, *(pointer,) * 3]
            self._compute.restype = None
            self._room = library.agentbus_room
            self._room.argtypes, self._room.restype = [long, long, integer], long
            self._count_exponents = library.agentbus_count_exponents
            self._count_exponents.argtypes = [pointer, long, pointer]
            self._pack = library.agentbus_pack
            self._pack.argtypes = [pointer, long, *(pointer,) * 4]
            self._count_exponents.restype = self._pack.restype = None

    def attend(self, plan: Plan, layer: int, qkv: Tensor) -> Tensor:
        """Turn queries and keys, put keys and values into their windows, and attend.

        Args:
            plan: of this batch.
            layer: its number.
            qkv: [rows, heads + 2 * kv_heads, size]; is overwritten.

        Returns:
            [rows, heads * size]
        """
        found = qkv.new_empty(len(qkv), plan.heads * plan.size)
        self._attend(ctypes.addressof(plan), layer, qkv.data_ptr(), found.data_ptr())
        return found

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return `x` [rows, size] over the root of the mean of its squares, times a weight [size]."""
        x, found = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        pointers = (x.data_ptr(), weight.data_ptr(), found.data_ptr())
        self._rms_norm(*pointers, *x.shape, eps, _threads(x.numel()))
        return found

    def multiply(self, product: Product, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Return the product of `x` [rows, inputs], plus `plus` [rows, outputs]; only with AMX.

        A wide product's result is float32.
        """
        assert self._multiply is not None
        x, plus = x.contiguous(), None if plus is None else plus.contiguous()
        rows = len(x)
        results = product.outputs // 2 if product.gated else product.outputs
        found = x.new_empty(rows, results, dtype=torch.float32 if product.wide else x.dtype)
        threads = _threads(product.inputs * product.outputs)
        memory = self._scratch.of(self._room(rows, product.inputs, threads))
        self._multiply(
            ctypes.addressof(product),
            x.data_ptr(),
            memory.data_ptr(),
            None if plus is None else plus.data_ptr(),
            found.data_ptr(),
            rows,
            threads,
        )
        return found

    def compute(
        self, model: NativeModel, plan: Plan, tokens: Tensor, wanted: Tensor, *, scored: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute a batch; only with AMX.

        Args:
            plan: of this batch.
            tokens: [rows], int64.
            wanted: [results], int64: the numbers of rows, each at most once.
            scored: whether scores are wanted.

        Returns:
            Hidden states [results, hidden]; scores [results, vocabulary], float32; and the best
            tokens [results] by them, the vocabulary's size where a score is no number. What is not
            wanted is empty.
        """
        rows, results, first = len(tokens), len(wanted), model.layers[0]
        products = (first.qkv, first.output, first.act, first.down)
        room = self._room(rows, max(product.inputs for product in products), plan.threads)
        size, inner = model.head.inputs, first.down.inputs
        others = size + first.qkv.outputs + first.output.inputs + inner
        hidden = torch.empty(results, size, dtype=torch.bfloat16)
        scores = torch.empty(results if scored else 0, model.head.outputs)
        best = torch.empty(len(scores), dtype=torch.int64)
        self._compute(
            ctypes.addressof(model),
            ctypes.addressof(plan),
            tokens.data_ptr(),
            self._scratch.of(rows * others + room).data_ptr(),
            wanted.data_ptr(),
            results,
            hidden.data_ptr(),
            scores.data_ptr() if len(scores) else None,
            best.data_ptr(),
        )
        return hidden, scores[:, : model.vocabulary], best

    def packed(self, weight: Tensor) -> PackedWeight | None:
        """Pack a weight [outputs, inputs] as `multiply` reads it; None if it has too many exponents."""
        outputs, inputs = weight.shape
        if weight.storage_offset() % 2:  # as a file of weights may have it
            weight = weight.clone()
        words = weight.contiguous().view(torch.int32)
        halves = words.view(outputs // PANEL, 2, LANES, inputs // PANEL, LANES)
        numbers = halves.permute(0, 3, 1, 4, 2).contiguous()
        pairs = weight.numel() // _PAIR
        found = torch.empty(_EXPONENTS, dtype=torch.int64)
        self._count_exponents(numbers.data_ptr(), weight.numel(), found.data_ptr())
        counts, exponents = found.topk(_CODES)
        strays = weight.numel() - int(counts.sum())
        if strays > weight.numel() * _MAX_STRAYS:
            return None
        with self._loading:
            made = PackedWeight(
                self._memory.empty((pairs, _PAIR * 3 // 2), torch.uint8),
                (exponents << 7).to(torch.int16).repeat(2),
                torch.empty(pairs + 1, dtype=torch.int32),
                torch.empty(strays, 2, dtype=torch.int16),
            )
        tensors = (made.exponents, made.pairs, made.first_stray, made.strays)
        pointers = (tensor.data_ptr() for tensor in tensors)
        self._pack(numbers.data_ptr(), pairs, *pointers)
        return made

    def silu_times(self, both: Tensor) -> Tensor:
        """Return silu(first half) * second half [rows, inner] of `both` [rows, 2 * inner]."""
        rows, inner = len(both), both.shape[1] // 2
        found = both.new_empty(rows, inner)
        pointers = (both.data_ptr(), found.data_ptr())
        self._silu_times(*pointers, rows, inner, _threads(both.numel()))
        return found


def partial_size(head_size: int) -> int:
    """Return how many floats the kernel needs for what a row and a head give in one piece."""
    return _STATE + head_size + head_size // 2


def _threads(numbers: int) -> int:
    return torch.get_num_threads() if numbers >= _PARALLEL_NUMBERS else 1


@functools.cache
def cpu_kernels() -> CPUKernels | None:
    """Return this process's kernels; None if the CPU or the machine's software cannot have them."""
    if not torch.cpu._is_avx512_bf16_supported():
        return None
    try:
        compiler = find_compiler()
        if compiler is None:
            logger.info("there is no C compiler: torch's own operations are used, which are slower")
            return None
        return CPUKernels(built(compiler), amx=_may_use_amx())
    except _PROBLEMS as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
        problem = " ".join((said or str(error)).split())
        logger.warning("CPU kernels cannot be used: %s", problem[-_MAX_PROBLEM:])
        return None


def row_kernels(dtype: torch.dtype, device: torch.device, size: int) -> CPUKernels | None:
    """Return the kernels, if `rms_norm` and `silu_times` take such rows of so many numbers."""
    suits = dtype == torch.bfloat16 and device.type == "cpu" and size % LANES == 0
    return cpu_kernels() if suits else None


def product_kernels(weight: Tensor) -> CPUKernels | None:
    """Return the kernels, if `multiply` takes a weight [outputs, inputs] of that kind and shape."""
    suits = (
        weight.dtype == torch.bfloat16
        and weight.device.type == "cpu"
        and not any(size % PANEL for size in weight.shape)
    )
    kernels = cpu_kernels() if suits else None
    return kernels if kernels is not None and kernels.amx else None


def attention_kernels(dtype: torch.dtype, head_size: int, group: int) -> CPUKernels | None:
    """Return the kernels, if `attend` takes heads of that size, `group` for each head of keys."""
    suits = (
        dtype == torch.bfloat16
        and head_size % _BLOCK == 0
        and head_size <= _MAX_HEAD_SIZE
        and group <= _MAX_GROUP
    )
    return cpu_kernels() if suits else None


def _may_use_amx() -> bool:
    """Say whether there is AMX, once this process has asked the kernel for its registers."""
    supported: bool = torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx()
    return supported
