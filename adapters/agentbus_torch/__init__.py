"""agentbus's own engine in plain torch: Llama-family models, with exact KV prefix reuse.

Importing this package is free; torch is loaded when an engine is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentbus.config import EngineSettings
    from agentbus.engine.base import Engine

__all__ = ["open_engine", "open_tokenizer"]


async def open_engine(model: str, settings: EngineSettings) -> Engine:
    """Open an engine on `smollm2`, a .gguf file, or a folder of safetensors.

    Raises:
        ModelNotFound, ModelBroken: the model cannot be had; the error says what to do.
        ConfigError: a setting does not fit this machine.
    """
    import anyio

    def load() -> Engine:
        from .engine import load_engine

        return load_engine(model, settings)

    return await anyio.to_thread.run_sync(load)


def open_tokenizer(model: str) -> Callable[[str], int]:
    """Return a function that counts a text's tokens. No weights are loaded.

    Raises:
        ModelNotFound, ModelBroken: the model cannot be had; the error says what to do.
    """
    from .counting import open_counter

    return open_counter(model)
