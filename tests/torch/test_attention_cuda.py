"""Paged attention gives what windows give: on a GPU where there is one, else in the interpreter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for CUDA)")

from agentbus_torch import attention_cuda, graphs
from agentbus_torch.attention_cuda import Chunk, PagedAttention, Rows
from agentbus_torch.attention_kernels import attend_shared
from agentbus_torch.batch import Part, shared_blocks
from agentbus_torch.config import read_config
from agentbus_torch.device import Eager
from agentbus_torch.graphs import Graphed
from agentbus_torch.load import load_runner
from agentbus_torch.runner import Runner
from agentbus_torch.sequence import Call, Sequence

from agentbus.config import EngineSettings
from agentbus.errors import ConfigError
from tests.torch.tiny import TinyModel

# What Triton's interpreter does with numbers, numpy is about to refuse (it needs numpy under 2.4).
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0")

MODEL = TinyModel(head_size=16, hidden=32)
SLIDING = {
    "all": TinyModel(model_type="mistral", head_size=16, more={"sliding_window": 20}),
    "one": TinyModel(
        model_type="qwen3",
        head_size=16,
        more={"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
}
SETTINGS = EngineSettings(
    kv_tokens=512, block_size=16, threads=1, device="cuda" if HAS_GPU else "cpu"
)


def ids(length: int, seed: int = 1) -> tuple[int, ...]:
    return tuple(3 + (7 * n * n + seed * n) % 250 for n in range(length))


def make_runner(folder: Path, *, paged: bool) -> Runner:
    runner = load_runner(folder, read_config(folder), SETTINGS, (2,))
    if paged and not HAS_GPU:
        model = runner._model
        attention = PagedAttention(
            runner._pool,
            model.rope,
            heads=model.config.heads,
            slots=32,
            positions=512,
            sliding=model.config.windows,
        )
        runner._steps = Eager(model, attention)
        runner._attention = attention
    return runner


def run(runner: Runner, prompts: list[tuple[int, ...]], answer: int) -> list[Sequence]:
    found = [
        runner.add(Call(prompt=p, max_tokens=answer, ignore_end=True, namespace=b"t"))
        for p in prompts
    ]
    while not all(sequence.ended for sequence in found):
        runner.step()
    for sequence in found:
        assert sequence.error is None
        runner.finish(sequence)
    runner.check_integrity()
    return found


def test_batches_prompts_forks_and_returns(tmp_path: Path) -> None:
    folder = MODEL.write(tmp_path)
    paged, window = make_runner(folder, paged=True), make_runner(folder, paged=False)
    shared = ids(37)
    rounds = [
        [ids(20), ids(5, 2)],
        [shared, (*shared[:25], 9, 9), (*shared, 4), ids(20)],
        [(*shared, 4, 5, 6), (*shared[:33], 8)],
    ]
    for prompts in rounds:
        ours, theirs = run(paged, prompts, 3), run(window, prompts, 3)
        for one, other in zip(ours, theirs, strict=True):
            assert one.generated == other.generated
            assert one.reused == other.reused
            assert one.logits is not None and other.logits is not None
            torch.testing.assert_close(one.logits, other.logits, atol=2e-4, rtol=2e-4)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows read a shared prefix together, call by call; two rows and 32 tokens do."""
    monkeypatch.setattr(attention_cuda, "_SHARED_ROWS", 2)
    monkeypatch.setattr(attention_cuda, "_SHARED_TOKENS", 32)
    found: list[int] = []

    def noted(query: torch.Tensor, *rest: object) -> None:
        found.append(len(query))
        attend_shared(query, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(attention_cuda, "attend_shared", noted)
    return found


def test_siblings_read_what_they_share_together(tmp_path: Path, together: list[int]) -> None:
    folder = MODEL.write(tmp_path)
    paged, window = make_runner(folder, paged=True), make_runner(folder, paged=False)
    shared = ids(48)
    for runner in (paged, window):
        run(runner, [shared], 1)
    prompts = [(*shared, 10 + n, 20 + n) for n in range(3)]
    ours, theirs = run(paged, prompts, 3), run(window, prompts, 3)
    assert [one.generated for one in ours] == [other.generated for other in theirs]
    assert 3 in together


@pytest.mark.parametrize("layers", SLIDING)
def test_layers_whose_windows_slide_read_nothing_together(
    tmp_path: Path, together: list[int], layers: str
) -> None:
    folder = SLIDING[layers].write(tmp_path)
    paged, window = make_runner(folder, paged=True), make_runner(folder, paged=False)
    shared = ids(48)
    rounds = [[shared], [(*shared, 10 + n, 20 + n) for n in range(3)], [ids(70), shared[:30]]]
    for prompts in rounds:
        ours, theirs = run(paged, prompts, 4), run(window, prompts, 4)
        for one, other in zip(ours, theirs, strict=True):
            assert one.generated == other.generated
            assert one.logits is not None and other.logits is not None
            torch.testing.assert_close(one.logits, other.logits, atol=2e-4, rtol=2e-4)
    assert bool(together) == (layers == "one")


class Replayed:
    """In the place of a graph: computes its step again, and leaves the result where it was."""

    def __init__(self, steps: Graphed, step: Rows | Chunk) -> None:
        self.replays = 0
        self._steps = steps
        self.step = step
        self.hidden = self._compute()

    def replay(self) -> None:
        self.replays += 1
        self.hidden.copy_(self._compute())

    def _compute(self) -> torch.Tensor:
        self._steps.attention.bind(self.step)
        return self._steps._compute(self.step)


def graphed(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Graphed:
    """Give a runner steps as graphs, where there is no GPU to capture any."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    assert isinstance(runner._attention, PagedAttention)
    steps = Graphed(runner._model, runner._attention)
    runner._steps = steps
    return steps


@pytest.mark.skipif(HAS_GPU, reason="there are graphs")
def test_a_step_is_padded_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Replayed] = []

    def capture(steps: Graphed, step: Rows | Chunk) -> graphs._Captured:
        made.append(Replayed(steps, step))
        return graphs._Captured(made[-1], step, made[-1].hidden)  # type: ignore[arg-type]

    monkeypatch.setattr(Graphed, "_capture", capture)
    monkeypatch.setattr(attention_cuda, "_SHARED_ROWS", 2)
    monkeypatch.setattr(attention_cuda, "_SHARED_TOKENS", 32)
    folder = SLIDING["one"].write(tmp_path)
    paged, window = make_runner(folder, paged=True), make_runner(folder, paged=False)
    graphed(paged, monkeypatch)
    shared = ids(48)
    for prompts in ([ids(20), ids(5, 2), ids(9, 3)], [(*shared, n) for n in range(3)], [shared]):
        ours, theirs = run(paged, prompts, 4), run(window, prompts, 4)
        for one, other in zip(ours, theirs, strict=True):
            assert one.generated == other.generated
            assert one.logits is not None and other.logits is not None
            torch.testing.assert_close(one.logits, other.logits, atol=2e-4, rtol=2e-4)
    rows = [len(one.hidden) for one in made if isinstance(one.step, Rows)]
    assert sorted(rows)[-2:] == [4, 4]  # 3 rows, shared and not
    assert any(isinstance(one.step, Chunk) for one in made)
    assert any(one.replays > 1 for one in made)


@pytest.mark.skipif(HAS_GPU, reason="there are graphs")
def test_without_memory_for_a_graph_steps_are_computed_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Graphed, "_capture", no_memory)
    folder = MODEL.write(tmp_path)
    paged, window = make_runner(folder, paged=True), make_runner(folder, paged=False)
    graphed(paged, monkeypatch)
    ours, theirs = run(paged, [ids(20)], 5), run(window, [ids(20)], 5)
    assert ours[0].generated == theirs[0].generated
    assert caplog.text.count("no CUDA graph of 1 rows") == 1


def test_how_much_is_shared() -> None:
    def part(*blocks: int, start: int) -> Part:
        return Part(0, blocks, start, (1,), True)

    assert shared_blocks([], 4) == 0
    assert shared_blocks([part(1, 2, 3, start=11), part(1, 2, 4, start=9)], 4) == 2
    assert shared_blocks([part(1, 2, 3, start=11), part(1, 2, 3, start=7)], 4) == 1
    assert shared_blocks([part(1, 2, start=7), part(5, 2, start=7)], 4) == 0


def test_a_head_that_has_no_tile_is_refused(tmp_path: Path) -> None:
    runner = make_runner(TinyModel(head_size=8).write(tmp_path), paged=False)
    with pytest.raises(ConfigError, match="heads of size 8"):
        PagedAttention(
            runner._pool, runner._model.rope, heads=4, slots=2, positions=64, sliding=[0, 0]
        )
