"""An engine that decodes what was recorded, and a process that serves one on a bus.

Which token ids a replay is to decode is told to every way's engine when it starts, so that no
request is longer than it would be in an ordinary system.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import orjson

from ..client import Bus, ModelAgent, model_agent_name
from ..config import EngineSettings, Prices
from ..context.layout import Prompt
from ..engine import open_engine
from ..engine.base import Capabilities, Engine, EngineStats, Finished, GenerateRequest, Piece, Usage
from ..errors import AgentbusError, describe
from ..ops import spare_from_collection

__all__ = ["Replayed", "open_replayed"]

Ids = tuple[int, ...]


class Replayed:
    """An engine whose calls of one tenant decode recorded ids, by their label, where there are any."""

    def __init__(self, engine: Engine, tenant: str, recorded: Mapping[str, Ids]) -> None:
        self._engine = engine
        self._tenant = tenant
        self._recorded = recorded

    @property
    def capabilities(self) -> Capabilities:
        """As the engine's."""
        return self._engine.capabilities

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece | Finished, None]:
        """As the engine's, of the recorded ids."""
        if request.tenant == self._tenant:
            request = replace(request, forced=self._recorded.get(request.label, ()))
        return self._engine.generate(request)

    def tokenize(self, prompt: Prompt) -> Ids:
        """As the engine's."""
        return self._engine.tokenize(prompt)

    def count(self, text: str) -> int:
        """As the engine's."""
        return self._engine.count(text)

    async def prefill(self, prompt: Prompt, *, tenant: str = "", owner: str = "") -> Usage:
        """As the engine's."""
        return await self._engine.prefill(prompt, tenant=tenant, owner=owner)

    def stats(self) -> EngineStats:
        """As the engine's."""
        return self._engine.stats()

    async def aclose(self) -> None:
        """As the engine's."""
        await self._engine.aclose()


async def open_replayed(settings: Mapping[str, Any]) -> Replayed:
    """Open the engine that `settings` describes.

    `settings`: `model` (a model spec), `engine` (fields of `EngineSettings`), `tenant`, `recorded`
    (token ids by label).
    """
    fields = settings["engine"]
    engine = EngineSettings(**{**fields, "prices": Prices(**fields["prices"])})
    recorded = {label: tuple(ids) for label, ids in settings["recorded"].items()}
    return Replayed(await open_engine(settings["model"], engine), settings["tenant"], recorded)


async def _serve(settings: Mapping[str, Any]) -> None:
    """Serve `open_replayed`'s engine at `settings["bus"]` until standard input ends."""
    try:
        async with Bus.open(settings["bus"], name="engine") as bus:
            agent = ModelAgent(await open_replayed(settings))
            name = await bus.spawn(agent, name=model_agent_name(settings["model"]))
            spare_from_collection()
            _say({"ready": [name]})
            await anyio.wait_readable(sys.stdin)
    except AgentbusError as error:
        code, fields = describe(error)
        _say({"error": {"code": code, "fields": fields}})


def _say(said: Mapping[str, object]) -> None:
    os.write(sys.stdout.fileno(), orjson.dumps(said) + b"\n")


if __name__ == "__main__":
    given = orjson.loads(Path(sys.argv[1]).read_bytes())
    anyio.run(_serve, given, backend_options={"use_uvloop": True})
