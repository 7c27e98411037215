"""Filters: how what is delivered takes fewer tokens, without a lie and without breaking a prefix."""

from __future__ import annotations

from typing import Final

from .base import Form
from .choose import Delivered, shortest
from .dedupe import Dedupe
from .diff import Diff
from .earlier import Earlier
from .fold import Fold
from .json_plain import PlainJSON, PlainJSONLines
from .json_value import CompactJSON
from .yaml_block import YAML

__all__ = [
    "LOSSLESS",
    "YAML",
    "CompactJSON",
    "Dedupe",
    "Delivered",
    "Diff",
    "Earlier",
    "Fold",
    "Form",
    "PlainJSON",
    "PlainJSONLines",
    "shortest",
]

LOSSLESS: Final[tuple[Form, ...]] = (CompactJSON(), PlainJSON(), PlainJSONLines(), Fold())
"""All forms of a text alone of which nothing is lost, in order of preference. `YAML` is not among
them: it is there to be chosen, and takes more tokens."""
