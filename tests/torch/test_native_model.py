"""A whole model at one call, against the same products and attention one after another."""

from __future__ import annotations

import gc
import os
import resource
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from agentbus_torch import cpu_kernels
from agentbus_torch.batch import Part, make_batch
from agentbus_torch.config import read_config
from agentbus_torch.device import AtOneCall, Eager, Scores, Steps, make_steps
from agentbus_torch.kv import KVPool, KVShape
from agentbus_torch.linear import make_head, make_linear
from agentbus_torch.model import Model
from agentbus_torch.native_model import native_model
from agentbus_torch.weights import Weights

from .tiny import TinyModel

BF16 = torch.bfloat16
CPU = torch.device("cpu")
SLIDING = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}
MODELS = {
    "llama": TinyModel(hidden=96, heads=6, kv_heads=2, head_size=64),
    "biased": TinyModel(hidden=64, heads=2, kv_heads=1, head_size=128, bias=True, layers=3),
    "qwen2": TinyModel(
        model_type="qwen2", hidden=64, head_size=64, bias=True, layers=3, more=SLIDING
    ),
    "qwen3": TinyModel(model_type="qwen3", hidden=96, heads=5, kv_heads=5, head_size=64),
    "one_layer": TinyModel(hidden=32, head_size=64, layers=1),
}
STEPS = (
    ((0, 0, 40, 1), (1, 0, 300, 300)),
    ((0, 40, 1, 1), (1, 300, 1, 1)),
    ((0, 41, 17, 0), (1, 301, 1, 1), (2, 0, 90, 5)),
    ((2, 90, 33, 0),),
    ((0, 58, 1, 1), (1, 302, 64, 1), (2, 123, 1, 1)),
    ((1, 366, 1, 1),),
)
"""Parts of each step: slot, start, rows, wanted."""


def opened(name: str, folder: Path) -> Model:
    config = read_config(MODELS[name].write(folder))
    return Model(config, Weights(folder, dtype=BF16, device=CPU), positions=512)


def steps(model: Model) -> Steps:
    """Return what computes it, and its sequences opened."""
    config = model.config
    shape = KVShape(config.layers, config.kv_heads, config.head_size, 16)
    made = make_steps(model, KVPool(shape, 64, dtype=BF16, device=CPU), slots=3)
    if not isinstance(made, AtOneCall):
        pytest.skip("there is no AMX, or no C compiler that knows it")
    for slot in range(3):
        assert made.attention.open((), 0, ()) == slot
    return made


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cpu_kernels, "_PARALLEL_NUMBERS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", MODELS)
def test_they_compute_what_one_after_another_do(name: str, tmp_path: Path) -> None:
    model = opened(name, tmp_path)
    found, apart = steps(model), steps(model)
    right = Eager(model, apart.attention)
    for parts in STEPS:
        made = [
            Part(slot, (), start, [(7 * n * n + slot) % 250 for n in range(rows)], wanted)
            for slot, start, rows, wanted in parts
        ]
        ours = found.hidden(make_batch(made, CPU))
        theirs = right.hidden(make_batch(made, CPU))
        assert ours.shape == (sum(part.wanted for part in made), model.config.hidden)
        assert torch.equal(ours, theirs)
        scores, best = found.scores(make_batch(made, CPU))  # once more, over the same
        assert scores.shape == (len(ours), model.config.vocabulary) and best is not None
        assert torch.equal(scores, Scores.of(model, theirs).values)
        assert torch.equal(best, scores.max(-1).indices)


@pytest.mark.parametrize(("place", "twin"), [(0, 1), (3, 40), (255, 256), (17, 258), (258, 259)])
def test_the_first_of_equal_scores_is_best_and_none_where_one_is_no_number(
    place: int, twin: int, tmp_path: Path
) -> None:
    """Whether it is among whole vectors of 16 scores or behind the last."""
    model = opened("llama", tmp_path)
    batch = make_batch([Part(0, (), 0, (7,), 1)], CPU)
    (state,) = steps(model).hidden(batch)
    size = model.config.vocabulary
    assert size == 260
    head = -state.sign() * (1 + torch.rand(size, 1)).to(BF16)  # what a tile is filled up with has 0
    head[place] = head[twin] = -state.sign() / 8
    for found in (place, size):
        model.head = make_head(head, model.norm)
        best = steps(model).scores(batch).best
        assert best is not None and best.tolist() == [found]
        head[twin, 0] = torch.nan


def test_what_it_points_to_stays(tmp_path: Path) -> None:
    model = opened("llama", tmp_path)
    kept, made = weakref.ref(model), steps(model)
    del model
    gc.collect()
    assert kept() is not None
    del made
    gc.collect()
    assert kept() is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count in their own way")
def test_its_threads_do_not_sleep_while_others_of_the_process_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenMP lets them, once the process has more threads than there are cores."""
    monkeypatch.setitem(MODELS, "deep", TinyModel(hidden=64, head_size=64, layers=24))
    computes = steps(opened("deep", tmp_path))
    batch = make_batch([Part(0, (), 0, (7, 8, 9), 1)], CPU)
    many, before = 2 * (os.cpu_count() or 1), torch.get_num_threads()
    with ThreadPoolExecutor(1) as other:
        other.submit(torch.set_num_threads, many).result()
        other.submit(lambda: torch.ones(1 << 20).add_(1)).result()  # its threads wait from here on
        torch.set_num_threads(2)
        computes.scores(batch)
        slept = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        for _ in range(20):
            computes.scores(batch)
        slept = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - slept
    torch.set_num_threads(before)
    assert slept < 20 * 24  # they meet ten times a layer


def test_a_model_of_which_one_product_is_not_in_tiles(tmp_path: Path) -> None:
    model = opened("llama", tmp_path)
    steps(model)
    plain = make_linear(torch.zeros(96, 200, dtype=BF16))  # 200 is no multiple of 32
    model.layers[1] = replace(model.layers[1], down=plain)
    assert native_model(model) is None
    model = opened("llama", tmp_path)
    model.head = make_linear(model.embedding, norm=model.norm)  # no multiple of 32 either
    assert native_model(model) is None
