"""Filters: how what is delivered takes fewer tokens, without a lie and without breaking a prefix."""

from __future__ import annotations

from typing import Final

from .base import Form
from .bm25 import BM25
from .choose import Delivered, shortest
from .dedupe import Dedupe
from .diff import Diff
from .earlier import Earlier
from .extract import Extract
from .fold import Fold
from .json_plain import PlainJSON, PlainJSONLines
from .json_value import CompactJSON
from .lossy import Lossy, Shortened
from .rank import Ranker

__all__ = [
    "BM25",
    "LOSSLESS",
    "CompactJSON",
    "Dedupe",
    "Delivered",
    "Diff",
    "Earlier",
    "Extract",
    "Fold",
    "Form",
    "Lossy",
    "PlainJSON",
    "PlainJSONLines",
    "Ranker",
    "Shortened",
    "shortest",
]

LOSSLESS: Final[tuple[Form, ...]] = (CompactJSON(), PlainJSON(), PlainJSONLines(), Fold())
"""All forms of a text alone of which nothing is lost, in order of preference."""
