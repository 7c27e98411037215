"""Filters: how what is delivered takes fewer tokens, without a lie and without breaking a prefix."""

from __future__ import annotations

from typing import Final

from .base import Form
from .choose import Delivered, shortest
from .dedupe import Dedupe
from .diff import Diff
from .earlier import Earlier
from .fanout import FanOut, Receiver, fan_out
from .fold import Fold
from .json_plain import PlainJSON, PlainJSONLines
from .json_value import CompactJSON
from .speed import Speed
from .worth import Change, Costs, Outlook, Worth, weigh

__all__ = [
    "LOSSLESS",
    "Change",
    "CompactJSON",
    "Costs",
    "Dedupe",
    "Delivered",
    "Diff",
    "Earlier",
    "FanOut",
    "Fold",
    "Form",
    "Outlook",
    "PlainJSON",
    "PlainJSONLines",
    "Receiver",
    "Speed",
    "Worth",
    "fan_out",
    "shortest",
    "weigh",
]

LOSSLESS: Final[tuple[Form, ...]] = (CompactJSON(), PlainJSON(), PlainJSONLines(), Fold())
"""All forms of a text alone of which nothing is lost, in order of preference."""
