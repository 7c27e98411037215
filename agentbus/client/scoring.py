"""Scores and vectors: what goes over the bus for them."""

from __future__ import annotations

from typing import NamedTuple

from ..engine.scoring import Vector
from ..filters import Plan

__all__ = ["EmbedTexts", "Embedded", "ScoreTexts"]


class ScoreTexts(NamedTuple):
    """Say how probable continuations are as the asking agent's answers on the context that comes
    along, filtered and laid out as is said; each is text or token ids."""

    layout: str
    salt: str
    continuations: tuple[str | tuple[int, ...], ...]
    filters: Plan = ()


class EmbedTexts(NamedTuple):
    """Turn texts into vectors."""

    texts: tuple[str, ...]


class Embedded(NamedTuple):
    """One text's vector."""

    vector: Vector
