"""Engines: the contract, the scripted one for tests, and how others are found."""

from .base import (
    Capabilities,
    Engine,
    EngineStats,
    Finished,
    GenerateRequest,
    Piece,
    Usage,
    within_budget,
)
from .registry import EngineFactory, ModelText, installed_engines, open_engine, open_model_text
from .service import EngineService

__all__ = [
    "Capabilities",
    "Engine",
    "EngineFactory",
    "EngineService",
    "EngineStats",
    "Finished",
    "GenerateRequest",
    "ModelText",
    "Piece",
    "Usage",
    "installed_engines",
    "open_engine",
    "open_model_text",
    "within_budget",
]
