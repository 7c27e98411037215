"""What all settings share: sizes, and what is asked of values."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import fields
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "KIB",
    "MIB",
    "MOST",
    "STRICT",
    "require_positive",
]

KIB = 1024
MIB = 1024 * KIB
MOST = 1024 * 1024 * MIB
"""Of any bound; more is a slip, and no system has it."""
STRICT = {"strict": True, "extra": "forbid"}
"""For settings that are read from files: no value is guessed, no key is passed over."""


def require_positive(settings: DataclassInstance, or_zero: Collection[str] = ()) -> None:
    """Refuse settings of which a number is not greater than 0, or 0 where that may be."""
    for f in fields(settings):
        value = getattr(settings, f.name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value == 0 and f.name in or_zero:
            continue
        if is_number and not 0 < value < math.inf:
            raise ConfigError(f.name, f"must be greater than 0 and finite, not {value}")
