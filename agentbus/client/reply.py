"""What a call comes back with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from ..context import Context
from ..telemetry import HopAccount

__all__ = ["Reply"]

T = TypeVar("T")


@dataclass(slots=True)
class Reply(Generic[T]):
    """What a call came back with."""

    value: T
    context: Context | None
    """The context as it now is; None if the call carried none and the callee made none."""
    account: HopAccount
