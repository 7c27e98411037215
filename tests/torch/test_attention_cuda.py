"""Paged attention gives what windows give: on a GPU where there is one, else in the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for CUDA)")

from agentbus_torch import attention_cuda, graphs
from agentbus_torch.ahead import Flight
from agentbus_torch.attention_cuda import Chunk, PagedAttention, Rows
from agentbus_torch.attention_kernels import attend_shared
from agentbus_torch.batch import Batch, Part, shared_blocks
from agentbus_torch.choose import Chooser
from agentbus_torch.config import read_config
from agentbus_torch.device import Eager
from agentbus_torch.graphs import Graphed
from agentbus_torch.kv import KVPool, KVShape
from agentbus_torch.load import load_runner
from agentbus_torch.runner import Runner
from agentbus_torch.sequence import Call, Sequence

from agentbus.config import EngineSettings
from agentbus.engine import Sampling
from agentbus.errors import ConfigError
from tests.torch.tiny import TinyModel
from tests.torch.under_way import Unwaited, let_run_ahead

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
DEVICE = "cuda" if HAS_GPU else "cpu"
either_way = pytest.mark.parametrize("ahead", [False, True], ids=["at_once", "ahead"])


def ids(length: int, seed: int = 1) -> tuple[int, ...]:
    return tuple(3 + (7 * n * n + seed * n) % 250 for n in range(length))


def load_on(folder: Path, device: str) -> Runner:
    settings = EngineSettings(
        dtype="float32", kv_tokens=512, block_size=16, threads=1, device=device
    )
    return load_runner(folder, read_config(folder), settings, (2,))


def make_runner(folder: Path, *, paged: bool, ahead: bool = False) -> Runner:
    """Make a runner that reads blocks, on a GPU where there is one, or windows, on the CPU."""
    runner = load_on(folder, DEVICE if paged else "cpu")
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
        runner.steps = Eager(model, attention)
        runner._attention = attention
    return let_run_ahead(runner, ahead)


def run(runner: Runner, prompts: list[tuple[int, ...]], answer: int) -> list[Sequence]:
    found = [
        runner.add(Call(prompt=p, max_tokens=answer, ignore_end=True, namespace=b"t"))
        for p in prompts
    ]
    run_all(runner, found)
    return found


def run_all(runner: Runner, sequences: list[Sequence]) -> None:
    while not all(sequence.ended for sequence in sequences):
        for sequence, _ in runner.step():
            if sequence.ended:
                assert sequence.error is None
                runner.finish(sequence)
    runner.check_integrity()


def assert_same(ours: list[Sequence], theirs: list[Sequence]) -> None:
    """Check that blocks and windows gave the same tokens, by the same scores."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.generated == other.generated
        assert one.reused == other.reused
        assert one.logits is not None and other.logits is not None
        torch.testing.assert_close(one.logits.cpu(), other.logits, atol=2e-4, rtol=2e-4)


@either_way
def test_batches_prompts_forks_and_returns(tmp_path: Path, ahead: bool) -> None:
    folder = MODEL.write(tmp_path)
    paged, window = make_runner(folder, paged=True, ahead=ahead), make_runner(folder, paged=False)
    shared = ids(37)
    rounds = [
        [ids(20), ids(5, 2)],
        [shared, (*shared[:25], 9, 9), (*shared, 4), ids(20)],
        [(*shared, 4, 5, 6), (*shared[:33], 8)],
    ]
    for prompts in rounds:
        assert_same(run(paged, prompts, 3), run(window, prompts, 3))


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
    assert_same(run(paged, prompts, 3), run(window, prompts, 3))
    assert max(together) == (4 if HAS_GPU else 3)  # a graph's rows are padded


@pytest.mark.parametrize("layers", SLIDING)
def test_layers_whose_windows_slide_read_nothing_together(
    tmp_path: Path, together: list[int], layers: str
) -> None:
    folder = SLIDING[layers].write(tmp_path)
    paged, window = make_runner(folder, paged=True), make_runner(folder, paged=False)
    shared = ids(48)
    rounds = [[shared], [(*shared, 10 + n, 20 + n) for n in range(3)], [ids(70), shared[:30]]]
    for prompts in rounds:
        assert_same(run(paged, prompts, 4), run(window, prompts, 4))
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


needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="only a GPU has graphs")


def graphs_of(runner: Runner) -> Graphed:
    assert isinstance(runner.steps, Graphed)
    return runner.steps


def only_prompts(hidden: Callable[[Batch], torch.Tensor]) -> Callable[[Batch], torch.Tensor]:
    """Wrap `Eager.hidden`: batches in which every sequence decodes must not come."""

    def checked(batch: Batch) -> torch.Tensor:
        assert any(part.rows > 1 for part in batch.parts)
        return hidden(batch)

    return checked


def graphed(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Graphed:
    """Give a runner steps as graphs, where there is no GPU to capture any."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    assert isinstance(runner._attention, PagedAttention)
    steps = Graphed(runner._model, runner._attention)
    runner.steps = steps
    return steps


ROUNDS = [
    [ids(20), ids(5, 2), ids(9, 3)],
    [(*ids(48), n) for n in range(3)],
    [ids(48)],
    [ids(30, 5)],
    [ids(27, 6)],
]
"""Three rows with nothing in common, three that share a prefix, and one; two prompts that are
padded to one size."""


@pytest.mark.skipif(HAS_GPU, reason="there are graphs")
@either_way
def test_a_step_is_padded_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
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
    let_run_ahead(paged, ahead)
    for prompts in ROUNDS:
        assert_same(run(paged, prompts, 4), run(window, prompts, 4))
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
    assert_same(run(paged, [ids(20)], 5), run(window, [ids(20)], 5))
    assert caplog.text.count("no CUDA graph of 1 rows") == 1


@pytest.mark.skipif(HAS_GPU, reason="there are streams")
def test_steps_without_a_graph_come_behind_the_warm_ups_that_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They write the same keys and values, from the right tokens."""
    noted: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            noted.append(f"{self.name} waits for {other.name}")

    def broken(steps: Graphed, step: Rows | Chunk) -> torch.Tensor:
        noted.append("warm-up")
        raise torch.OutOfMemoryError("CUDA out of memory")

    paged = make_runner(MODEL.write(tmp_path), paged=True)
    steps = graphed(paged, monkeypatch)
    monkeypatch.setattr(steps, "_side", Stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(Graphed, "_compute", broken)
    run(paged, [ids(20)], 1)
    assert noted == ["side waits for main", "warm-up", "main waits for side"]


@needs_gpu
@either_way
@pytest.mark.parametrize("sliding", SLIDING)
def test_captured_steps_are_padded_and_replayed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    together: list[int],
    sliding: str,
    ahead: bool,
) -> None:
    folder = SLIDING[sliding].write(tmp_path)
    paged, window = make_runner(folder, paged=True, ahead=ahead), make_runner(folder, paged=False)
    steps = graphs_of(paged)
    for prompts in (*ROUNDS, *ROUNDS):
        assert_same(run(paged, prompts, 4), run(window, prompts, 4))
    assert None not in steps._captured.values()
    expected = {("rows", 1), ("rows", 4), ("chunk", 32)}
    assert expected <= set(steps._captured)
    assert (("together", 4) in steps._captured) == (sliding == "one")
    before = dict(steps._captured)
    # What was captured decodes from here on: no graph is made, no step launched without one.
    with monkeypatch.context() as patch:
        patch.setattr(Graphed, "_compute", None)
        patch.setattr(Graphed, "_capture", None)
        patch.setattr(steps._eager, "hidden", only_prompts(steps._eager.hidden))
        for prompts in ROUNDS:
            assert_same(run(paged, prompts, 4), run(window, prompts, 4))
    assert steps._captured == before


@needs_gpu
def test_a_capture_that_runs_out_of_memory_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps of that size are computed without a graph; those of other sizes have theirs."""
    compute = Graphed._compute

    def no_memory(steps: Graphed, step: Rows | Chunk) -> torch.Tensor:
        hidden = compute(steps, step)
        if torch.cuda.is_current_stream_capturing():
            torch.empty(2**50, dtype=torch.uint8, device=hidden.device)
        return hidden

    folder = MODEL.write(tmp_path)
    paged, window = make_runner(folder, paged=True), make_runner(folder, paged=False)
    steps = graphs_of(paged)
    assert_same(run(paged, [ids(20)], 5), run(window, [ids(20)], 5))
    three = [ids(20), ids(5, 2), ids(9, 3)]
    with monkeypatch.context() as patch:
        patch.setattr(Graphed, "_compute", no_memory)
        assert_same(run(paged, three, 5), run(window, three, 5))
        assert_same(run(paged, [ids(31)], 5), run(window, [ids(31)], 5))
    assert caplog.text.count("no CUDA graph") == 2 and "emory" in caplog.text
    assert [key for key, one in steps._captured.items() if one is None] == [
        ("rows", 4),
        ("chunk", 16),
    ]
    two = three[:2]
    assert_same(run(paged, two, 5), run(window, two, 5))
    assert steps._captured["rows", 2] is not None
    assert_same(run(paged, three, 5), run(window, three, 5))
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_launching_a_graph_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where rows go on as they are, nor where they get new blocks or a shared prefix."""
    monkeypatch.setattr(attention_cuda, "_SHARED_ROWS", 2)
    monkeypatch.setattr(attention_cuda, "_SHARED_TOKENS", 32)
    unwaited = Unwaited(monkeypatch, attention_cuda)
    shape, meta = KVShape(1, 2, 16, 16), torch.device("meta")
    pool = KVPool(shape, 8, dtype=torch.float32, device=meta)
    attention = PagedAttention(pool, cast(Any, None), heads=4, slots=4, positions=128, sliding=[0])
    unwaited.know(attention._tables)
    behind = unwaited.take(3, dtype=torch.int64)
    parts = [Part(n, [1, 2, 3, 4 + n], 50, (n,), 1) for n in range(3)]
    with unwaited, torch.inference_mode():
        rows = attention.rows(parts, 4)
        assert rows.plan.shared
        for start in (50, 51):
            moved = [replace(part, start=start) for part in parts]
            attention.fill(rows, moved, behind)
    assert unwaited.uploads == 1 + 3  # all tables' new blocks once, and all rows each time


@needs_gpu
def test_a_step_ahead_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As torch's own watch over a GPU's waits says; graphs are captured before."""
    runner = make_runner(MODEL.write(tmp_path), paged=True, ahead=Graphed.runs_ahead)
    follow, launched = Runner._follow, list[bool]()

    def watched(self: Runner, flight: Flight) -> Flight | None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            follower = follow(self, flight)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        launched.append(follower is not None)
        return follower

    warm = Sampling(temperature=0.9, seed=3)
    cut = Sampling(temperature=0.9, top_p=0.9, seed=4)
    for _ in range(2):
        choosers = [Chooser(ignore_end=True, end_ids=frozenset({2})), Chooser(warm), Chooser(cut)]
        choosers += [Chooser(warm, logprobs=3), Chooser(forced=ids(40))]
        calls = [
            Call(prompt=ids(20, n), max_tokens=40, forced=tuple(chooser.forced), chooser=chooser)
            for n, chooser in enumerate(choosers)
        ]
        run_all(runner, [runner.add(call) for call in calls])
        monkeypatch.setattr(Runner, "_follow", watched)
    assert sum(launched) > 30 and "broke" not in caplog.text


def test_how_much_is_shared() -> None:
    def part(*blocks: int, start: int) -> Part:
        return Part(0, blocks, start, (1,), True)

    assert shared_blocks([], 4) == 0
    assert shared_blocks([part(1, 2, 3, start=11), part(1, 2, 4, start=9)], 4) == 2
    assert shared_blocks([part(1, 2, 3, start=11), part(1, 2, 3, start=7)], 4) == 1
    assert shared_blocks([part(1, 2, start=7), part(5, 2, start=7)], 4) == 0


def test_a_head_that_has_no_tile_is_refused(tmp_path: Path) -> None:
    folder = TinyModel(head_size=8).write(tmp_path)
    runner = make_runner(folder, paged=False)
    with pytest.raises(ConfigError, match="heads of size 8"):
        PagedAttention(
            runner._pool, runner._model.rope, heads=4, slots=2, positions=64, sliding=[0, 0]
        )
    if HAS_GPU:
        with pytest.raises(ConfigError, match="heads of size 8"):
            load_on(folder, DEVICE)


@needs_gpu
@pytest.mark.parametrize("beside", ["replays", "captures"])
def test_another_runner_goes_on_while_a_step_is_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    """As another engine's thread does, with a step that it has captured, or one that it has not."""
    folder = MODEL.write(tmp_path)
    runner, other = make_runner(folder, paged=True), make_runner(folder, paged=True)
    window, other_window = make_runner(folder, paged=False), make_runner(folder, paged=False)
    alone, both = [ids(20)], [ids(20), ids(5, 2)]
    assert_same(run(other, alone, 5), run(other_window, alone, 5))
    prompts = alone if beside == "replays" else both
    compute, found = Graphed._compute, list[list[Sequence]]()

    def interrupted(steps: Graphed, step: Rows | Chunk) -> torch.Tensor:
        if steps is runner.steps and torch.cuda.is_current_stream_capturing() and not found:
            found.append(threads.submit(run, other, prompts, 5).result())
        return compute(steps, step)

    monkeypatch.setattr(Graphed, "_compute", interrupted)
    with ThreadPoolExecutor(1) as threads:
        assert_same(run(runner, alone, 5), run(window, alone, 5))
    (ours,) = found
    assert_same(ours, run(other_window, prompts, 5))
    if beside == "replays":
        assert None not in graphs_of(runner)._captured.values()
    assert_same(run(runner, both, 5), run(window, both, 5))
