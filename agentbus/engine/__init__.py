"""Engines: the contract, the scripted one for tests, and how others are found."""

from .base import (
    MAX_LOGPROBS,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    Alternative,
    Capabilities,
    Engine,
    EngineStats,
    Finished,
    GenerateRequest,
    Piece,
    TokenLogprob,
    Usage,
    within_budget,
)
from .registry import EngineFactory, ModelText, installed_engines, open_engine, open_model_text
from .sampling import Sampling
from .scoring import Embedder, Score, Scorer, Vector, embed, score
from .service import EngineService
from .tools import ToolCall

__all__ = [
    "MAX_LOGPROBS",
    "MAX_STOPS",
    "MAX_STOP_CHARACTERS",
    "Alternative",
    "Capabilities",
    "Embedder",
    "Engine",
    "EngineFactory",
    "EngineService",
    "EngineStats",
    "Finished",
    "GenerateRequest",
    "ModelText",
    "Piece",
    "Sampling",
    "Score",
    "Scorer",
    "TokenLogprob",
    "ToolCall",
    "Usage",
    "Vector",
    "embed",
    "installed_engines",
    "open_engine",
    "open_model_text",
    "score",
    "within_budget",
]
