"""Engines are found by name, lazily, and what is missing is said plainly."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from agentbus.config import EngineSettings
from agentbus.engine import Examined, examine_engines, installed_engines, open_engine
from agentbus.engine.fake import FakeEngine
from agentbus.errors import ConfigError, ModelNotFound, UnknownEngine


def test_the_engines_of_this_distribution_are_installed() -> None:
    assert {"torch", "fake"} <= installed_engines().keys()


@pytest.mark.anyio
async def test_a_kind_and_a_model() -> None:
    engine = await open_engine("fake:parrot", EngineSettings(kv_tokens=64))
    assert isinstance(engine, FakeEngine)
    assert engine.capabilities.model == "fake:parrot"
    assert engine.stats().total_blocks == 4
    await engine.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("spec", ["no-such-model", "torch:no-such-model", "./odd:name.gguf"])
async def test_the_default_kind_is_torch(spec: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await open_engine(spec)
    assert caught.value.model == spec.removeprefix("torch:")


@pytest.mark.anyio
async def test_an_unknown_kind_lists_what_is_installed() -> None:
    with pytest.raises(UnknownEngine, match="fake, torch"):
        await open_engine("oracle:delphi")


@pytest.mark.anyio
async def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = EntryPoint("torch", "agentbus_no_such_module:open_engine", "agentbus.engines")
    monkeypatch.setattr("agentbus.engine.registry.installed_engines", lambda: {"torch": missing})
    with pytest.raises(ConfigError, match=r"pip install 'fm-agentbus\[torch\]'"):
        await open_engine("smollm2")


@pytest.mark.anyio
async def test_a_broken_package_is_told_as_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("oracle_at_delphi")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    async def broken(model: str, settings: EngineSettings) -> None:
        if model == "locked":
            raise PermissionError(13, "Permission denied", model)
        raise OSError("libtorch_cpu.so: cannot open shared object file")

    module.open_engine = broken  # type: ignore[attr-defined]
    point = EntryPoint("torch", f"{module.__name__}:open_engine", "agentbus.engines")
    monkeypatch.setattr("agentbus.engine.registry.installed_engines", lambda: {"torch": point})
    with pytest.raises(ConfigError, match=r"broken \(libtorch_cpu.so"):
        await open_engine("smollm2")
    with pytest.raises(PermissionError):  # which is no fault of packages
        await open_engine("locked")


def test_torch_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, agentbus.engine, agentbus_torch;"
        "agentbus.engine.installed_engines();"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_kind_tells_what_the_machine_has_unless_its_packages_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Examined("oracle", "in a good mood")
    module = ModuleType("oracle_at_delphi")
    module.examine = lambda: iter([found])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kinds = {
        name: EntryPoint(name, f"{place}:open_engine", "agentbus.engines")
        for name, place in {
            "delphi": module.__name__,
            "fake": "agentbus.engine.fake",
            "missing": "agentbus_no_such_module",
        }.items()
    }
    monkeypatch.setattr("agentbus.engine.registry.installed_engines", lambda: kinds)
    assert list(examine_engines()) == [found]

    def broken() -> None:
        raise OSError("libtorch_cpu.so: cannot open shared object file")

    module.examine = broken  # type: ignore[attr-defined]
    (told,) = examine_engines()
    assert told.name == "engine delphi" and "libtorch_cpu.so" in told.found and told.advice
