"""Holds a recorded conversation again in all ways and accounts for each."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import EngineSettings
from ..errors import ConfigError
from .account import account, read_log
from .equal import check_equal_work, tokenize_pieces
from .events import Progress
from .machine import machine
from .script import Conversation
from .table import Comparison, Ran, WayReport
from .ways import Way, replay

if TYPE_CHECKING:
    from .http_ways import OrdinaryWays

__all__ = ["check_comparable", "compare"]


async def compare(
    conversation: Conversation,
    agentbus_way: Way,
    *,
    model_spec: str,
    settings: EngineSettings,
    progress: Progress,
) -> Comparison:
    """Replay `conversation` in the ordinary ways and in `agentbus_way`, interleaved.

    The ordinary ways' engine runs `model_spec` under `settings`, as the one behind `agentbus_way`
    must too; that one's tenant must be new to its engine, so that its cache is cold, and the
    log lines of its hops must be in the file when its last hop has ended.

    Raises:
        UnequalWork: a way did other work than the record says.
        AgentbusError: a process could not start, or a hop failed.
    """
    with tempfile.TemporaryDirectory(prefix="agentbus-demo-") as folder:
        async with _ordinary(conversation, model_spec, settings, Path(folder)) as ordinary:
            await agentbus_way.warm_up()
            ways: tuple[Way, ...] = (*ordinary.ways, agentbus_way)
            results = await replay(ways, conversation, progress)
            pieces = await tokenize_pieces(conversation, ordinary.tokenizer.chat)
        logs = {way.name: read_log(way.token_log, way.tenant) for way in ways}
    equal = check_equal_work(conversation, results, logs, pieces)
    reports = (
        WayReport(
            way.name,
            way.transport,
            tuple(results[way.name]),
            account(logs[way.name], pieces.turn_start),
        )
        for way in ways
    )
    return Comparison(conversation, tuple(reports), equal, _ran(model_spec, settings))


def _ran(model_spec: str, settings: EngineSettings) -> Ran:
    threads = settings.threads or os.cpu_count() or 1
    return Ran(
        model=model_spec,
        at=datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=machine(),
        engine=f"dtype {settings.dtype}, {threads} thread{'s' * (threads > 1)}",
    )


def check_comparable(model_spec: str) -> None:
    """Check, before a long run, that the ordinary ways can be run here with this model.

    Raises:
        ConfigError: a package that they need is not installed, or the model has no template.
    """
    if model_spec.startswith("fake:"):
        problem = f"{model_spec!r} has no chat template to compare the ways by; name smollm2, a"
        raise ConfigError("model", f"{problem} .gguf file or a model's folder")
    for name in ("httpx", "starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            problem = f"the ordinary ways need {name!r}; install fm-agentbus[demo]"
            raise ConfigError("demo", problem)


def _ordinary(
    conversation: Conversation, model_spec: str, settings: EngineSettings, folder: Path
) -> AbstractAsyncContextManager[OrdinaryWays]:
    from .http_ways import ordinary_ways

    return ordinary_ways(conversation, model_spec=model_spec, settings=settings, folder=folder)
