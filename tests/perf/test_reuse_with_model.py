"""What the suite `reuse` has the engine compute: as much as the index says, and no less of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from agentbus_torch.chat import read_chat_template
from agentbus_torch.engine import TorchEngine, load_engine
from agentbus_torch.tokens import PromptEncoder, Vocabulary

from agentbus.context import LAYOUTS, TenantKey, probe
from perf.macro.replay import LoggedCall
from perf.macro.tokenizer import Tokenizer
from perf.macro.ways import Reading, TeamCall, read_team
from perf.macro.with_model import (
    compute_calls,
    compute_teams,
    index_prefills,
    shortest_sessions,
    shortest_teams,
)
from tests.torch.tiny import TinyModel, tiny_settings

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(window=2048).write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[TorchEngine]:
    async with aclosing(load_engine(str(folder), tiny_settings(kv_tokens=8192))) as opened:
        yield opened


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    vocabulary = Vocabulary.load(folder)
    return Tokenizer(vocabulary, PromptEncoder(vocabulary, probe(read_chat_template(folder))))


def team(turns: int, seed: str) -> list[TeamCall]:
    context = TenantKey().empty().role("ada", "You are Ada.").role("bob", "You are Bob.")
    context = context.document(f"{seed} Tides. ")
    calls = []
    for number in range(turns):
        speaker, answer = ("ada", "bob")[number % 2], f" {seed} {number}."
        after = context.message(speaker, answer)
        calls.append(TeamCall(context, speaker, answer, after))
        context = after
    return calls


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_teams_have_computed_what_the_index_says(
    engine: TorchEngine, tokenizer: Tokenizer, layout: str
) -> None:
    teams = [team(4, "One"), team(6, "Two")]
    expected = Reading()
    for one in teams:
        read_team(one, LAYOUTS[layout], tokenizer, expected)
    ours = await compute_teams(engine, teams, LAYOUTS[layout], tokenizer, reuse=True)
    whole = await compute_teams(engine, teams, LAYOUTS[layout], tokenizer, reuse=False)
    assert ours.prefilled_tokens == expected.prefilled_tokens < whole.prefilled_tokens
    assert ours.prompt_tokens == whole.prefilled_tokens == expected.prompt_tokens


async def test_teams_of_other_files_share_nothing(
    engine: TorchEngine, tokenizer: Tokenizer
) -> None:
    """Their roles may begin alike, as of one framework's agents."""
    layout, expected = LAYOUTS["roster_first"], Reading()
    one, other = team(4, "One"), team(5, "One")
    await compute_teams(engine, [one], layout, tokenizer, reuse=True)
    read_team(other, layout, tokenizer, expected)
    ours = await compute_teams(engine, [other], layout, tokenizer, reuse=True)
    assert ours.prefilled_tokens == expected.prefilled_tokens


async def test_calls_have_computed_what_the_index_says(engine: TorchEngine) -> None:
    sessions = [
        [LoggedCall(name, "session", tuple(range(3, 3 + length))) for length in lengths]
        for name, lengths in (("a", (40, 90, 60, 60)), ("b", (50, 120)))
    ]
    calls = [call for session in sessions for call in session]
    ours = await compute_calls(engine, calls, reuse=True)
    whole = await compute_calls(engine, calls, reuse=False)
    assert ours.prefilled_tokens == sum(map(index_prefills, sessions)) == 40 + 50 + 1 + 1 + 50 + 70
    assert whole.prefilled_tokens == ours.prompt_tokens == sum(len(c.tokens) for c in calls)


def test_what_does_not_fit_is_left_out_and_the_shortest_come_first(tokenizer: Tokenizer) -> None:
    long, short = team(20, "Long"), team(3, "Short")
    assert shortest_teams([long, [], short], tokenizer, 2000, 5) == [short, long]
    assert shortest_teams([long, short], tokenizer, 2000, 1) == [short]
    assert shortest_teams([long, short], tokenizer, 500, 5) == [short]
    sessions = [[LoggedCall("s", "a", range(length))] for length in (30, 10, 20)]
    assert shortest_sessions(sessions, 30, 5) == [sessions[1], sessions[2]]
