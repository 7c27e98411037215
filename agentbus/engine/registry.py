"""Engines by name: `KIND:MODEL` to an open engine.

Kinds are entry points of the group `agentbus.engines`; one is imported when it is asked for, and
no other. What a model's name means is the kind's own business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint, entry_points

import anyio

from ..config import EngineSettings
from ..errors import ConfigError, UnknownEngine
from .base import Engine

__all__ = ["DEFAULT_KIND", "ENTRY_POINTS", "EngineFactory", "installed_engines", "open_engine"]

ENTRY_POINTS = "agentbus.engines"
"""Group of entry points; each names an `EngineFactory`."""

DEFAULT_KIND = "torch"

EngineFactory = Callable[[str, EngineSettings], Awaitable[Engine]]
"""Opens a kind's engine on a model. It raises `EngineError`s, and `ImportError` where its
packages are not installed."""


def installed_engines() -> dict[str, EntryPoint]:
    """Return the installed kinds of engines, by name. Nothing is imported."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _split(spec: str, kinds: dict[str, EntryPoint]) -> tuple[str, str]:
    """Return kind and model; what stands before a colon is a kind unless it looks like a path."""
    kind, colon, model = spec.partition(":")
    if not colon or (kind not in kinds and not kind.isidentifier()):
        return DEFAULT_KIND, spec
    return kind, model


async def open_engine(spec: str, settings: EngineSettings | None = None) -> Engine:
    """Open an engine.

    Args:
        spec: `KIND:MODEL`, such as `torch:smollm2` or `fake:`; the kind `torch` may be left out.

    Raises:
        UnknownEngine: no engine of that kind is installed.
        ConfigError: the kind's packages are not installed, or a setting does not fit.
        EngineError: the model cannot be had; the error says what to do.
    """
    kinds = installed_engines()
    kind, model = _split(spec, kinds)
    point = kinds.get(kind)
    if point is None:
        raise UnknownEngine(kind, ", ".join(sorted(kinds)))
    try:
        factory: EngineFactory = await anyio.to_thread.run_sync(point.load)
        return await factory(model, settings or EngineSettings())
    except ImportError as error:
        raise ConfigError(
            f"engine {kind!r}",
            f"it needs packages that are not installed ({error}); "
            f"install them with: pip install 'fm-agentbus[{kind}]'",
        ) from error
