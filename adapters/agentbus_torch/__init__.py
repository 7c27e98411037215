"""agentbus's own engine in plain torch: Llama-family models, with exact KV prefix reuse.

Importing this package is free; torch is loaded when an engine is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentbus.config import EngineSettings
    from agentbus.engine import Examined, ModelText
    from agentbus.engine.base import Engine

    from .engine import TorchEngine

__all__ = ["examine", "open_engine", "open_model_text"]


async def open_engine(model: str, settings: EngineSettings) -> Engine:
    """Open an engine on `smollm2`, a .gguf file, or a folder of safetensors.

    Raises:
        ModelNotFound, ModelBroken: the model cannot be had; the error says what to do.
        ConfigError: a setting does not fit this machine.
    """
    import anyio

    def load() -> TorchEngine:
        from .engine import load_engine

        return load_engine(model, settings)

    if not settings.kv_events:
        return await anyio.to_thread.run_sync(load)
    from agentbus.transport.kv_feed import KVEventFeed

    feed = KVEventFeed(endpoint=settings.kv_events, replay_endpoint=settings.kv_events_replay)
    try:
        engine = await anyio.to_thread.run_sync(load)
    except BaseException:
        feed.close()
        raise
    engine.publish(feed)
    return engine


def open_model_text(model: str) -> ModelText:
    """Return how a model reads text. No weights are loaded, and no torch.

    Raises:
        ModelNotFound, ModelBroken: the model cannot be had; the error says what to do.
    """
    from .model_text import read_model_text

    return read_model_text(model)


def examine() -> Iterator[Examined]:
    """Return what this machine has for the engine. Torch is loaded, and kernels are compiled.

    Raises:
        ImportError: torch is not installed.
    """
    from .machine import examined

    return examined()
