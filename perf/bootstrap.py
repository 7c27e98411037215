"""How far a mean over things that were measured in pairs may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .report import Row, unit_of

__all__ = ["Interval", "against", "paired"]

_RESAMPLES = 10_000
_CONFIDENCE_PERCENT = 95
_AT_ONCE = 1000
"""Resamples that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and the bounds that hold it with 95 % confidence."""

    mean: float
    low: float
    high: float


def against(
    suite: str, case: str, name: str, unit: str, ours: Sequence[float], theirs: Sequence[float]
) -> list[Row]:
    """Return rows of the mean of ours less the figures of a peer of that name, and its bounds.

    Raises:
        ValueError: as `paired`.
    """
    interval = paired(ours, theirs)
    found = {
        f"against_{name}_{unit}": interval.mean,
        f"against_{name}_low_{unit}": interval.low,
        f"against_{name}_high_{unit}": interval.high,
    }
    return [
        Row(suite, case, metric, value, unit_of(metric), None, None, None)
        for metric, value in found.items()
    ]


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Return the mean of ours less theirs, pair by pair, with its percentile bootstrap interval.

    Pairs are drawn with replacement, 10,000 times, from one seed (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13).

    Raises:
        ValueError: there are no pairs, or one side has more.
    """
    differences = np.subtract(ours, theirs)
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"{len(ours)} and {len(theirs)} figures make no pairs")
    draw = np.random.default_rng(0)
    shape = (_AT_ONCE, len(differences))
    means = [
        differences[draw.integers(len(differences), size=shape)].mean(axis=1)
        for _ in range(_RESAMPLES // _AT_ONCE)
    ]
    beside = (100 - _CONFIDENCE_PERCENT) / 2
    low, high = np.percentile(np.concatenate(means), (beside, 100 - beside))
    return Interval(float(differences.mean()), float(low), float(high))
