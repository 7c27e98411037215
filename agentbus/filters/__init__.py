"""Filters: how what is delivered takes fewer tokens, without a lie and without breaking a prefix."""

from __future__ import annotations

from .base import Form

__all__ = ["Form"]
