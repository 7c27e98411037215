"""Filters: how what is delivered takes fewer tokens, without a lie and without breaking a prefix."""

from __future__ import annotations

from typing import Final

from .base import Form
from .choose import Delivered, read_back, shortest
from .dedupe import Dedupe
from .diff import Diff
from .earlier import Earlier
from .fold import Fold
from .json_plain import PlainJSON, PlainJSONLines
from .json_value import CompactJSON
from .ledger import Book, Decision, Given, Ledger, Receipt
from .lossy import Lossy, Shortened
from .pipeline import FORMS, REFERENCES, Pipeline
from .plan import Plan, Use, check_plan, plan_of

__all__ = [
    "FORMS",
    "LOSSLESS",
    "REFERENCES",
    "Book",
    "CompactJSON",
    "Decision",
    "Dedupe",
    "Delivered",
    "Diff",
    "Earlier",
    "Fold",
    "Form",
    "Given",
    "Ledger",
    "Lossy",
    "Pipeline",
    "PlainJSON",
    "PlainJSONLines",
    "Plan",
    "Receipt",
    "Shortened",
    "check_plan",
    "open_lossy",
    "plan_of",
    "read_back",
    "shortest",
]

LOSSLESS: Final[tuple[Form, ...]] = (CompactJSON(), PlainJSON(), PlainJSONLines(), Fold())
"""All forms of a text alone of which nothing is lost, in order of preference."""


def open_lossy(name: str, use: Use) -> Lossy | None:
    """Return the filter of that name which leaves something out; None if there is none."""
    return None
