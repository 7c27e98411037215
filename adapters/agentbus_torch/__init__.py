"""agentbus's own engine in plain torch: Llama-family models, with exact KV prefix reuse.

Importing this package is free; torch is loaded when an engine is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentbus.config import EngineSettings
    from agentbus.engine import ModelText
    from agentbus.engine.base import Engine

__all__ = ["open_engine", "open_model_text"]


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


def open_model_text(model: str) -> ModelText:
    """Return how a model reads text. No weights are loaded, and no torch.

    Raises:
        ModelNotFound, ModelBroken: the model cannot be had; the error says what to do.
    """
    from .model_text import read_model_text

    return read_model_text(model)
