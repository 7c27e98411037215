"""Filters by the names that rules give them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .base import Form
from .choose import Reference
from .dedupe import Dedupe
from .diff import Diff
from .fold import Fold
from .json_plain import PlainJSON, PlainJSONLines
from .json_value import CompactJSON
from .lossy import Lossy
from .plan import Use

__all__ = ["FORMS", "LOSSLESS", "REFERENCES", "open_lossy"]

FORMS: Final[Mapping[str, tuple[Form, ...]]] = MappingProxyType(
    {"json": (CompactJSON(), PlainJSON(), PlainJSONLines()), "fold": (Fold(),)}
)
"""Forms of a text alone of which nothing is lost, in order of preference."""
LOSSLESS: Final[tuple[Form, ...]] = tuple(form for forms in FORMS.values() for form in forms)
"""All of them."""
REFERENCES: Final[Mapping[str, Reference]] = MappingProxyType({"dedupe": Dedupe(), "diff": Diff()})
"""Forms that refer to what was delivered before."""


def open_lossy(name: str, use: Use) -> Lossy | None:
    """Return the filter of that name which leaves something out; None if there is none."""
    return None
