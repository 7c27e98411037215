"""The figures, each with the floor that the device sets and the bar that the project sets."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from agentbus.engine import Engine

from .floors import bandwidth, matmul_rate, stated_peak
from .shapes import Shape
from .work import Ids, Times, Work, ask, prompts, shared_prompts

__all__ = ["Device", "Figure", "device_figures", "engine_figures", "shared_figure", "shared_rate"]

Measure = Callable[[], Awaitable["Figure"]]

Figure = dict[str, object]
"""`value`, `unit`, `floor` in the same unit, and what compares them."""


@dataclass(frozen=True, slots=True)
class Device:
    """What was measured of the device itself."""

    name: str
    bytes_s: float
    matmul_ops_s: float
    peak_ops_s: float
    """What the maker states; what was measured, where that is not known."""


def device_figures(device: torch.device, work: Work) -> tuple[Device, dict[str, Figure]]:
    """Measure the device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    read = bandwidth(device, work.bandwidth_bytes)
    product = matmul_rate(device, work.matmul_side)
    peak = stated_peak(name)
    return Device(name, read, product, peak or product), {
        "read_bandwidth": {"value": read / 1e9, "unit": "gb_s", "floor": None},
        "matmul_bfloat16": {
            "value": product / 1e12,
            "unit": "tflop_s",
            "floor": peak / 1e12 if peak else None,
        },
    }


def engine_figures(engine: Engine, shape: Shape, work: Work, device: Device) -> dict[str, Measure]:
    """Return what measures each figure of one engine; each can be measured without the others."""
    given = (engine, shape, work, device)
    found: dict[str, Measure] = {
        f"decode_batch_{batch}": partial(_decode, *given, batch) for batch in work.batches
    }
    found[f"ttft_{work.new}_on_{work.cached}"] = partial(_hop, *given)
    found |= {f"prefill_{tokens}": partial(_prefill, *given, tokens) for tokens in work.prefills}
    return found


async def _decode(engine: Engine, shape: Shape, work: Work, device: Device, batch: int) -> Figure:
    """Time of a step once all answers have begun; prompts are cached, so that they begin at once."""
    asked = prompts(f"decode-{batch}", batch, work.prompt, shape.vocabulary)
    await ask(engine, asked, 1, salt="decode")
    steps = []
    for _ in range(work.repeats):
        times = await ask(engine, asked, work.decoded, salt="decode")
        taken = max(one.last for one in times) - min(one.first for one in times)
        steps.append(1e3 * taken / (work.decoded - 1))
    step = statistics.median(steps)
    return {
        "value": step,
        "unit": "ms",
        "floor": (floor := 1e3 * shape.read_bytes / device.bytes_s),
        "share_of_floor": floor / step,
        "bar": 0.8 if batch == 1 else None,
        "tok_s": 1e3 * batch / step,
    }


async def _hop(engine: Engine, shape: Shape, work: Work, device: Device) -> Figure:
    """Time to the first token of new tokens behind cached ones."""
    (stem,) = prompts("hop", 1, work.cached, shape.vocabulary)
    await ask(engine, [stem], 1, salt="hop")
    news = prompts("hop-new", work.repeats + 1, work.new, shape.vocabulary)
    taken = [await _first_token_ms(engine, stem + new, "hop", work.cached) for new in news]
    value = statistics.median(taken[1:])
    floor = 1e3 * shape.read_bytes / device.bytes_s
    return {
        "value": value,
        "unit": "ms",
        "floor": floor,
        "times_floor": value / floor,
        "bar": 1.7,
    }


async def _prefill(engine: Engine, shape: Shape, work: Work, device: Device, tokens: int) -> Figure:
    asked = prompts(f"prefill-{tokens}", work.repeats + 1, tokens, shape.vocabulary)
    taken = [await _first_token_ms(engine, one, f"{n}", 0) for n, one in enumerate(asked)]
    value = statistics.median(taken[1:])
    floor = 1e3 * shape.prefill_flops(tokens) / device.peak_ops_s
    whole = 2.0 * tokens * (shape.read_bytes / 2 + shape.hidden * shape.vocabulary)
    return {
        "value": value,
        "unit": "ms",
        "floor": floor,
        "mfu": floor / value,
        "mfu_as_2_weights_tokens": 1e3 * whole / device.peak_ops_s / value,
        "bar": 0.5 if tokens == min(work.prefills) else None,
        "tok_s": 1e3 * tokens / value,
    }


async def _first_token_ms(engine: Engine, prompt: Ids, salt: str, cached: int) -> float:
    (times,) = await ask(engine, [prompt], 1, salt=salt)
    if not cached <= times.reused < cached + 16:
        raise RuntimeError(f"{times.reused} tokens were reused where {cached} were cached")
    return 1e3 * (times.first - times.asked)


def shared_figure(
    shape: Shape, work: Work, device: Device, ours: float | None, theirs: float | None
) -> Figure:
    """Compare the answers' tokens a second of siblings that share a prefix which is new."""
    kept = work.requests * (work.tail + work.decoded / 2) + work.cached
    step = (shape.read_bytes + kept * shape.kv_bytes) / device.bytes_s
    prefill = shape.prefill_flops(work.cached + work.requests * work.tail) / device.peak_ops_s
    least = prefill + (work.decoded - 1) * step
    return {
        "value": ours,
        "unit": "tok_s",
        "floor": work.requests * work.decoded / least,
        "peer": "transformers continuous batching",
        "peer_value": theirs,
        "ratio": ours / theirs if ours and theirs else None,
        "bar": 20.0,
    }


async def shared_rate(engine: Engine, shape: Shape, work: Work) -> float:
    """Return tokens a second of `requests` answers, their shared prefix's prefill included."""
    rates = []
    for number in range(work.repeats):
        asked = shared_prompts(f"shared-{number}", work, shape.vocabulary)
        times = await ask(engine, asked, work.decoded, salt=f"shared-{number}")
        rates.append(_rate(times))
    return statistics.median(rates)


def _rate(times: Sequence[Times]) -> float:
    taken = max(one.last for one in times) - min(one.asked for one in times)
    return sum(one.tokens for one in times) / taken
