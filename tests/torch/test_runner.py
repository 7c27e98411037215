"""Batches of sequences on a tiny model: each gets the scores that it would get alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from agentbus_torch.config import read_config
from agentbus_torch.device import make_steps
from agentbus_torch.load import load_runner
from agentbus_torch.runner import Runner
from agentbus_torch.scheduler import MAX_SEQUENCES
from agentbus_torch.sequence import Call

from agentbus.errors import ConfigError, ContextTooLong, KVExhausted, MisuseError
from tests.torch.tiny import TinyModel, tiny_settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel().write(tmp_path_factory.mktemp("tiny"))


def make(folder: Path, kv_tokens: int = 4096) -> Runner:
    settings = tiny_settings(kv_tokens=kv_tokens, block_size=4)
    return load_runner(folder, read_config(folder), settings, (2,))


def text(seed: int, length: int) -> tuple[int, ...]:
    return tuple(3 + (seed * 31 + n * n * 7 + n * seed) % 250 for n in range(length))


def run(runner: Runner, calls: list[Call]) -> list[torch.Tensor]:
    """Return each call's scores [tokens, vocabulary], all of them computed together."""
    sequences = [runner.add(call) for call in calls]
    rows: list[list[torch.Tensor]] = [[] for _ in calls]
    left = len(calls)
    while left:
        for sequence, token in runner.step():
            if token is not None and sequence.logits is not None:
                rows[sequences.index(sequence)].append(sequence.logits)
            if sequence.ended:
                runner.finish(sequence)
                left -= 1
        runner.check_integrity()
    assert runner.stats().locked == 0
    return [torch.stack(found) for found in rows]


def forced(prompt: tuple[int, ...], answer: tuple[int, ...], *, reuse: bool = True) -> Call:
    return Call(prompt=prompt, max_tokens=0, forced=answer, reuse=reuse, namespace=b"t")


CASES = {
    "apart": [forced(text(n, 20 + 9 * n), text(n + 20, 30)) for n in range(6)],
    "siblings": [forced(text(1, 70) + text(n, 5 + n), text(n + 20, 30)) for n in range(6)],
    "the_same": [forced(text(1, 70), text(n + 20, 30)) for n in range(4)],
    "mixed": [
        forced(text(1, 70) + text(n, 5), text(n + 20, 30), reuse=n % 2 == 0) for n in range(6)
    ],
    "long_and_short": [forced(text(n, 300 if n % 2 else 3), text(n + 20, 40)) for n in range(6)],
}


@pytest.mark.parametrize("pool", [4096, 400], ids=["ample", "small"])
@pytest.mark.parametrize("case", CASES)
def test_a_batch_computes_what_each_would_alone(folder: Path, case: str, pool: int) -> None:
    runner = make(folder, pool)
    for found, call in zip(run(runner, CASES[case]), CASES[case], strict=True):
        (alone,) = run(make(folder), [forced(call.prompt, call.forced, reuse=False)])
        torch.testing.assert_close(found, alone, atol=3e-4, rtol=3e-4)
    # what is reused now is read from the pool's blocks
    runner.steps = make_steps(runner._model, runner._pool, slots=MAX_SEQUENCES)
    runner._attention = runner.steps.attention
    again = run(runner, CASES[case])
    for found, call in zip(again, CASES[case], strict=True):
        (alone,) = run(make(folder), [forced(call.prompt, call.forced, reuse=False)])
        torch.testing.assert_close(found, alone, atol=3e-4, rtol=3e-4)


def test_a_sequence_that_was_put_back_goes_on_from_what_is_left(folder: Path) -> None:
    runner = make(folder, 240)
    calls = [forced(text(n, 40), text(n + 20, 60)) for n in range(4)]
    found = run(runner, calls)
    assert runner.preempted > 0
    for scores, call in zip(found, calls, strict=True):
        (alone,) = run(make(folder), [forced(call.prompt, call.forced, reuse=False)])
        torch.testing.assert_close(scores, alone, atol=3e-4, rtol=3e-4)


def test_windows_notice_that_blocks_changed_hands(folder: Path) -> None:
    """Forks of one conversation on a pool too small for them: blocks pass from one to another."""
    runner, generator = make(folder, 44), random.Random(5)
    expected: dict[tuple[int, ...], torch.Tensor] = {}
    for _ in range(80):
        prompt = text(9, 8) + text(generator.randrange(6), generator.randrange(1, 9))
        if prompt not in expected:
            (expected[prompt],) = run(make(folder), [forced(prompt, text(3, 3), reuse=False)])
        calls = [forced(prompt, text(3, 3))] * generator.randrange(1, 4)
        for found in run(runner, calls):
            torch.testing.assert_close(found, expected[prompt], atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize("kv_tokens", [10**12, 10**18])
def test_a_pool_that_no_memory_holds_is_the_setting_s_fault(folder: Path, kv_tokens: int) -> None:
    with pytest.raises(ConfigError, match=r"kv_tokens: \d+ tokens of KV do not fit") as caught:
        make(folder, kv_tokens)
    assert len(str(caught.value)) < 200


def test_what_cannot_be_computed_is_refused(folder: Path) -> None:
    runner = make(folder, 64)
    with pytest.raises(ContextTooLong):
        runner.add(Call(prompt=(3,) * 512, max_tokens=1))
    with pytest.raises(KVExhausted):
        runner.add(Call(prompt=(3,) * 60, max_tokens=5))
    for prompt in ((), (-1,), (10_000,)):
        with pytest.raises(MisuseError):
            runner.add(Call(prompt=prompt, max_tokens=1))
    assert runner.step() == []


@pytest.mark.parametrize("packed", [b"\x05\0\0\0", b"\x05\0\0", bytearray(8)])
def test_bytes_are_no_token_ids(folder: Path, packed: bytes) -> None:
    runner = make(folder)
    with pytest.raises(MisuseError):
        runner.add(Call(prompt=packed, max_tokens=2))  # type: ignore[arg-type]
    assert runner.waiting == 0
