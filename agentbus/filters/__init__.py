"""Filters: how what is delivered takes fewer tokens, without a lie and without breaking a prefix."""

from __future__ import annotations

from typing import Final

from .base import Form
from .choose import Delivered, read_back, shortest
from .decide import FORMS, REFERENCES
from .dedupe import Dedupe
from .diff import Diff
from .earlier import Earlier
from .fanout import FanOut, Receiver, fan_out
from .fold import Fold
from .guard import Balance, Edge, Guard, harm
from .json_plain import PlainJSON, PlainJSONLines
from .json_value import CompactJSON
from .mask import KEPT_RESULTS, MASK, Masking, Standing, mask_of, mask_results
from .repeats import Repeat, find_repeats
from .report import FilterReport, FilterRow, add_up, report_rows
from .speed import Speed
from .worth import Change, Costs, Outlook, Worth, weigh

__all__ = [
    "KEPT_RESULTS",
    "LOSSLESS",
    "MASK",
    "Balance",
    "Change",
    "CompactJSON",
    "Costs",
    "Dedupe",
    "Delivered",
    "Diff",
    "Earlier",
    "Edge",
    "FanOut",
    "FilterReport",
    "FilterRow",
    "Fold",
    "Form",
    "Guard",
    "Masking",
    "Outlook",
    "PlainJSON",
    "PlainJSONLines",
    "Receiver",
    "Repeat",
    "Speed",
    "Standing",
    "Worth",
    "add_up",
    "fan_out",
    "find_repeats",
    "harm",
    "mask_of",
    "mask_results",
    "report_rows",
    "shortest",
    "weigh",
]

LOSSLESS: Final[tuple[Form, ...]] = (CompactJSON(), PlainJSON(), PlainJSONLines(), Fold())
"""All forms of a text alone of which nothing is lost, in order of preference."""


def open_lossy(name: str, use: Use) -> Lossy | None:
    """Return the filter of that name which leaves something out; None if there is none."""
    return None
