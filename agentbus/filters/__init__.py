"""Filters: how what is delivered takes fewer tokens, without a lie and without breaking a prefix."""

from __future__ import annotations

from .base import Form
from .json_plain import PlainJSON
from .json_value import CompactJSON

__all__ = ["CompactJSON", "Form", "PlainJSON"]
