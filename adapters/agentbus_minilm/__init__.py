"""Ranks sentences by what they mean: MiniLM-L6-v2 on a CPU, beside their words.

Importing this package is free; the model is loaded when a ranker is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentbus.errors import ConfigError

if TYPE_CHECKING:
    from agentbus.filters import Ranker

__all__ = ["open_ranker"]


def open_ranker() -> Ranker:
    """Open the ranker for `Extract`. It computes: call it in a thread.

    Raises:
        ConfigError: a package is not installed.
        ModelNotFound, ModelBroken: the model cannot be had. Each error says what to do.
    """
    from .locate import INSTALL, locate

    files = locate()
    try:
        from .embed import Embedder
    except ImportError as error:
        raise ConfigError(
            "ranker 'minilm'",
            f"it needs packages that are not installed ({error}); install them with: {INSTALL}",
        ) from error
    from .ranker import MiniLM

    return MiniLM(Embedder.load(files))
