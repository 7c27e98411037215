"""The GPU's command on a CPU and a tiny shape: every figure comes, with its floor."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from perf import gpu
from perf.device import figures, peer
from perf.device.figures import Device, shared_figure
from perf.device.peer import Variant, variants
from perf.device.shapes import LLAMA_8B, TINY, write_folder
from perf.device.work import FULL, SMALL, prompts, shared_prompts

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_sentence_says_so() -> None:
    argv = [sys.executable, str(ROOT / "perf" / "gpu.py")]
    done = subprocess.run(argv, capture_output=True, check=False, text=True, timeout=60)
    assert done.returncode == 2
    assert "there is no GPU that torch can use" in done.stderr and "Traceback" not in done.stderr


def test_every_figure_comes_as_a_line_of_json() -> None:
    argv = [sys.executable, str(ROOT / "perf" / "gpu.py"), "--device", "cpu", "--tiny", "--no-peer"]
    done = subprocess.run(argv, capture_output=True, check=True, text=True, timeout=300)
    lines = {line["figure"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(lines) == {
        "read_bandwidth",
        "matmul_bfloat16",
        "decode_batch_1",
        "decode_batch_2",
        "ttft_16_on_128",
        "prefill_64",
        "prefill_256",
        "shared_4x8_on_128",
    }
    assert all(line["value"] > 0 and line["unit"] and "floor" in line for line in lines.values())
    bytes_s = 1e9 * lines["read_bandwidth"]["value"]
    floor = lines["decode_batch_1"]["floor"]
    assert floor == pytest.approx(1e3 * TINY.read_bytes / bytes_s, rel=1e-2)
    hop = lines["ttft_16_on_128"]
    assert hop["times_floor"] == pytest.approx(hop["value"] / hop["floor"], rel=1e-2)


def test_what_breaks_is_told_and_costs_no_other_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object) -> dict[str, object]:
        raise ExceptionGroup("some", [RuntimeError("an illegal memory access")])

    monkeypatch.setattr(figures, "_hop", broken)
    small = Variant("small", {"num_blocks": 1, "max_batch_tokens": 64})
    monkeypatch.setattr(peer, "variants", lambda *_: (small,))
    work = replace(SMALL, cached=256)  # a block; answers have no room
    asyncio.run(gpu._measure("cpu", TINY, work, with_peer=True))
    lines = {line["figure"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    broke = {name for name, line in lines.items() if "error" in line}
    assert broke == {"ttft_16_on_256", "shared_4x8_on_256_peer_small"}
    assert lines["ttft_16_on_256"]["error"] == "RuntimeError: an illegal memory access"
    assert "No requests can be scheduled" in lines["shared_4x8_on_256_peer_small"]["error"]
    assert lines["prefill_256"]["value"] > 0
    assert lines["shared_4x8_on_256"]["value"] > 0
    assert lines["shared_4x8_on_256"]["ratio"] is None


def test_an_engine_that_does_not_load_does_not_cost_the_peers_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def theirs(*_: object) -> dict[str, float]:
        return {"one": 120.0, "other": 160.0}

    monkeypatch.setattr(gpu, "_measure_ours", does_not_load)
    monkeypatch.setattr(gpu, "_measure_theirs", theirs)
    asyncio.run(gpu._measure("cpu", TINY, SMALL, with_peer=True))
    lines = {line["figure"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert lines["engine"]["error"] == "OutOfMemoryError: none left"
    assert lines["shared_4x8_on_128"]["value"] is None
    shared = lines["shared_4x8_on_128"]
    assert (shared["peer_value"], shared["peer_settings"]) == (160.0, "other")


def test_the_peer_answers_with_its_prefix_computed_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asyncio.run(_peer_alone())
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["figure"] == "shared_4x8_on_128_peer_prefix_once"
    assert line["value"] > 0 and line["settings"]["max_batch_tokens"] == SMALL.cached


async def _peer_alone() -> None:
    where, device = torch.device("cpu"), Device("cpu", 1.0, 1.0, 1.0)
    with gpu._folder(TINY) as folder:
        write_folder(folder, TINY, where)
        assert set(await gpu._measure_theirs(folder, TINY, SMALL, device, where)) == {"prefix_once"}


def test_every_variants_cache_holds_twice_what_is_asked() -> None:
    found = {one.name: one.settings for one in variants(FULL, torch.device("cuda"))}
    assert set(found) == {"prefix_once", "defaults", "cuda_graphs", "compiled"}
    assert found["defaults"] == {}
    tokens = FULL.requests * (FULL.cached + FULL.tail + FULL.decoded)
    assert 256 * found["cuda_graphs"]["num_blocks"] >= 2 * tokens
    assert found["cuda_graphs"]["kv_padding_interval_size"] == tokens


async def does_not_load(*_: object) -> float:
    raise torch.OutOfMemoryError("none left")


def test_the_shape_is_llamas() -> None:
    embedding = LLAMA_8B.hidden * LLAMA_8B.vocabulary
    weights = LLAMA_8B.read_bytes / 2 + embedding
    assert weights == pytest.approx(8.03e9, rel=1e-3)
    assert LLAMA_8B.kv_bytes == 131072
    assert LLAMA_8B.prefill_flops(2048) == pytest.approx(2.97e13, rel=1e-2)


def test_a_written_folder_holds_the_weights_that_are_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, TINY, torch.device("cpu"))
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    norms = 2 * TINY.hidden * (2 * TINY.layers + 1)
    expected = TINY.read_bytes + 2 * TINY.hidden * TINY.vocabulary + norms
    assert expected < size < expected + 8192  # the files' headers


def test_siblings_share_what_is_cached_and_nothing_else() -> None:
    asked = shared_prompts("seed", SMALL, TINY.vocabulary)
    assert len(asked) == SMALL.requests and len({ids[SMALL.cached :] for ids in asked}) == 4
    assert len({ids[: SMALL.cached] for ids in asked}) == 1
    assert prompts("a", 1, 8, 1024) != prompts("b", 1, 8, 1024)


def test_the_shared_floor_reads_the_prefix_once_a_step() -> None:
    device = Device("x", bytes_s=3e12, matmul_ops_s=8e14, peak_ops_s=1e15)
    figure = shared_figure(LLAMA_8B, FULL, device, ours=3200.0, theirs=160.0)
    assert figure["ratio"] == 20.0
    floor = figure["floor"]
    assert isinstance(floor, float) and 5800 < floor < 6000
    assert shared_figure(LLAMA_8B, FULL, device, 1.0, None)["ratio"] is None
