"""All engines that run without a real model keep the contract of engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.config import EngineSettings
from agentbus.engine import Engine, EngineService, open_engine
from agentbus.testing import ScriptedEngine
from agentbus.testing.contracts.engine import EngineContract
from tests.torch.tiny import DEVICE, TinyModel


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(window=4096).write(tmp_path_factory.mktemp("tiny"))


class TestFake(EngineContract):
    async def open(self, settings: EngineSettings) -> Engine:
        return await open_engine("fake:", settings)


class TestScripted(EngineContract):
    async def open(self, settings: EngineSettings) -> Engine:
        return ScriptedEngine([" Tides rise and fall twice a day."] * 100, settings=settings)


class TestTorch(EngineContract):
    @pytest.fixture(autouse=True)
    def model(self, tiny_folder: Path) -> None:
        self.folder = tiny_folder

    async def open(self, settings: EngineSettings) -> Engine:
        return await open_engine(f"torch:{self.folder}", replace(settings, device=str(DEVICE)))


class TestServiceOfFake(EngineContract):
    async def open(self, settings: EngineSettings) -> Engine:
        return EngineService(await open_engine("fake:", settings))


class TestServiceOfTorch(TestTorch):
    async def open(self, settings: EngineSettings) -> Engine:
        return EngineService(await super().open(settings))
