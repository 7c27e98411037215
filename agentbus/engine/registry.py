"""Engines by name: `KIND:MODEL` to an open engine.

Kinds are entry points of the group `agentbus.engines`; one is imported when it is asked for, and
no other. What a model's name means is the kind's own business.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

import anyio

from ..config import EngineSettings
from ..context import Template, TokenCounter
from ..errors import ConfigError, UnknownEngine
from .base import Engine

__all__ = [
    "DEFAULT_KIND",
    "ENTRY_POINTS",
    "EngineFactory",
    "Examined",
    "ModelText",
    "examine_engines",
    "installed_engines",
    "open_engine",
    "open_model_text",
]

ENTRY_POINTS = "agentbus.engines"
"""Group of entry points; each names an `EngineFactory`."""

DEFAULT_KIND = "torch"

EngineFactory = Callable[[str, EngineSettings], Awaitable[Engine]]
"""Opens a kind's engine on a model. It raises `EngineError`s, and `ImportError` where its
packages are not installed."""


class ModelText(NamedTuple):
    """How a model reads text: what can be known without its weights."""

    count: TokenCounter
    """Counts the tokens of a text, taken as data."""
    template: Template | None
    """The model's chat template, probed; None if it has none."""


class Examined(NamedTuple):
    """One thing that an engine's package looked at on this machine."""

    name: str
    found: str
    advice: str = ""
    """What to do about it, where something is to be done."""


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
    kind, model, point = _find(spec)
    with _needing_packages(kind):
        factory: EngineFactory = await anyio.to_thread.run_sync(point.load)
        return await factory(model, settings or EngineSettings())


def open_model_text(spec: str) -> ModelText:
    """Return how a model reads text; no engine is opened.

    A kind's package offers it as `open_model_text`, beside the factory of its entry point. It reads
    files: call it in a thread.

    Raises:
        UnknownEngine: no engine of that kind is installed.
        ConfigError: the kind cannot tell, or its packages are not installed.
        EngineError: the model cannot be had; the error says what to do.
    """
    kind, model, point = _find(spec)
    with _needing_packages(kind):
        module = importlib.import_module(point.module)
        opener: Callable[[str], ModelText] | None = getattr(module, "open_model_text", None)
        if opener is None:
            raise ConfigError(f"engine {kind!r}", "it has no tokenizers of its own")
        return opener(model)


def examine_engines() -> Iterator[Examined]:
    """Return what the engines' packages find on this machine: what they would compute with.

    A kind's package offers it as `examine`, beside the factory of its entry point; those whose own
    packages are not installed say nothing. It may take seconds.
    """
    for kind, point in sorted(installed_engines().items()):
        try:
            module = importlib.import_module(point.module)
            examine: Callable[[], Iterable[Examined]] | None = getattr(module, "examine", None)
            if examine is not None:
                yield from examine()
        except ImportError:
            continue
        except Exception as error:  # noqa: BLE001 - whatever a package or a driver breaks with
            found = f"broken: {type(error).__name__}: {error}"
            yield Examined(f"engine {kind}", found, "install its packages anew")


def _find(spec: str) -> tuple[str, str, EntryPoint]:
    kinds = installed_engines()
    kind, model = _split(spec, kinds)
    point = kinds.get(kind)
    if point is None:
        raise UnknownEngine(kind, ", ".join(sorted(kinds)))
    return kind, model, point


@contextmanager
def _needing_packages(kind: str) -> Iterator[None]:
    """Tell that packages are missing, or broken: the loader of libraries says so without a number."""
    try:
        yield
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of a file
        raise ConfigError(
            f"engine {kind!r}",
            f"it needs packages that are not installed, or broken ({error}); "
            f"install them with: pip install 'fm-agentbus[{kind}]'",
        ) from error
