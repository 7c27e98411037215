"""Rankers are found by name, and errors say which there are."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentbus import Bus, EngineSettings
from agentbus.cli.app import app
from agentbus.engine import check_ranker, open_ranker, rankers
from agentbus.errors import ConfigError

pytestmark = pytest.mark.anyio


class Longest:
    """Ranks by length."""

    def score(self, query: str, units: Sequence[str]) -> Sequence[float]:
        return [float(len(unit)) for unit in units]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point = importlib.metadata.EntryPoint("longest", f"{__name__}:Longest", rankers.RANKERS)
    monkeypatch.setattr(rankers, "entry_points", lambda group: [point])
    yield


async def test_no_name_is_words_alone() -> None:
    assert await open_ranker("") is None


async def test_a_ranker_is_opened_by_its_name() -> None:
    found = await open_ranker("longest")
    assert found is not None
    assert found.score("", ["a", "abc"]) == [1.0, 3.0]


async def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(ConfigError, match="there is no 'shortest'; there are: longest"):
        await open_ranker("shortest")
    async with Bus.open() as bus:
        with pytest.raises(ConfigError, match="shortest"):
            await bus.serve("fake:", EngineSettings(ranker="shortest"))
        assert await bus.agents() == ()


def test_a_name_is_checked_without_importing_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = importlib.metadata.EntryPoint("broken", "no_such_module:open", rankers.RANKERS)
    monkeypatch.setattr(rankers, "entry_points", lambda group: [broken])
    check_ranker("broken")
    check_ranker("")
    with pytest.raises(ConfigError, match="there is no 'longest'; there are: broken"):
        check_ranker("longest")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("longest", 'engine.ranker = "longest"'),
        ("shortest", "ranker: there is no 'shortest'; there are: longest"),
    ],
)
def test_settings_are_checked_for_it(name: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "agentbus.toml"
    path.write_text(f'[engine]\nranker = "{name}"\n')
    result = CliRunner().invoke(app, ["up", "--check", "--config", str(path)])
    assert said in result.output
