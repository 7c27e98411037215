"""Runners that launch steps before the last one is read, on devices that compute at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import pytest
import torch
from agentbus_torch.runner import Runner
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Unwaited", "let_run_ahead"]


def let_run_ahead(runner: Runner, ahead: bool) -> Runner:
    """Have a runner launch steps before the last one is read, whatever its device, or not."""
    cast(Any, runner.steps).runs_ahead = ahead
    return runner


class Unwaited(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where the host and a device, here torch's `meta`, would wait for each other.

    That is where numbers of the host go there by another way than `transfer`'s, and where something
    is asked of a tensor there, which torch refuses.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *modules: object) -> None:
        """Watch over what some modules have of `transfer`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, torch.Tensor] = {}
        self.uploads = 0
        for module in modules:
            for name in ("upload", "overwrite"):
                if hasattr(module, name):
                    patch.setattr(module, name, getattr(self, f"_{name}"))

    def take(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return a tensor that is there."""
        return self.know(torch.empty(shape, dtype=dtype, device="meta"))

    def know(self, tensor: torch.Tensor) -> torch.Tensor:
        """Say that a tensor was there."""
        self._known[id(tensor)] = tensor
        return tensor

    def _upload(self, values: object, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        assert device.type == "meta"
        self.uploads += 1
        with torch.utils._python_dispatch._disable_current_modes():
            return self.know(torch.tensor(values, dtype=dtype).to("meta"))

    def _overwrite(self, target: torch.Tensor, numbers: Iterable[int]) -> None:
        self.uploads += 1
        assert target.dtype == torch.int32 and target.numel() == len(list(numbers))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for argument in _tensors([*args, *(kwargs or {}).values()]):
            if id(argument) not in self._known:
                raise AssertionError(f"{func} takes {argument}, which comes from the host")
        found = func(*args, **(kwargs or {}))
        for tensor in _tensors([found]):
            self.know(tensor)
        return found


def _tensors(values: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found
