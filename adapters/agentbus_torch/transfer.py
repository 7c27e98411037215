"""Numbers on their way to a device and back, without a wait for what it computes meanwhile.

On a GPU, a copy from or to memory that is not pinned waits for all that was launched before it, and
so does each list of Python's numbers that becomes a tensor there. Pinned memory is torch's: its
allocator hands a piece out again only when the copies that were made of it are done.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["Download", "overwrite", "upload"]


def upload(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers, or equally long sequences of them, as a tensor on a device."""
    host = torch.tensor(values, dtype=dtype, pin_memory=device.type != "cpu")
    return host.to(device, non_blocking=True)


def overwrite(target: Tensor, numbers: Iterable[int]) -> None:
    """Write numbers, row after row, over a tensor of 32-bit integers on a device.

    Packed first: torch takes five times as long with Python's own.
    """
    host = torch.frombuffer(array("i", numbers), dtype=torch.int32).view(target.shape)
    if target.device.type != "cpu":
        host = host.pin_memory()
    target.copy_(host, non_blocking=True)


class Download:
    """Tensors that the host will read. To be made in the stream that computes them."""

    def __init__(self, device: torch.device, *tensors: Tensor) -> None:
        """Begin to copy; without tensors there is only something to wait for."""
        self._host = list(tensors)
        self._done: torch.cuda.Event | None = None
        if device.type == "cpu":
            return
        self._host = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
        for there, here in zip(tensors, self._host, strict=True):
            here.copy_(there, non_blocking=True)
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._done.record()

    def wait(self) -> list[Tensor]:
        """Return the tensors on the CPU, once they and all that was launched before are there.

        Raises:
            RuntimeError: what the device computed has broken (torch tells of it so late).
        """
        if self._done is not None:
            self._done.synchronize()
        return self._host
