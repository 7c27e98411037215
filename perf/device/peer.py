"""transformers' continuous batching on the same folder, device and prompts."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from .floors import synchronize
from .shapes import Shape
from .work import Ids, Work, shared_prompts

__all__ = ["Variant", "continuous_batching_rate", "variants"]

_BLOCK = 256
"""Tokens of a block of its cache, by default."""
_WARM_UP = 16
"""Tokens decoded in the run that does not count: what depends on sizes is compiled or captured."""
_ENOUGH_S = 10.0
"""Counted runs that took so long together are enough."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A set of its settings."""

    name: str
    settings: Mapping[str, Any]
    """Fields of `ContinuousBatchingConfig` that differ from their defaults."""


def variants(work: Work, device: torch.device) -> tuple[Variant, ...]:
    """Return the settings that may serve it best, by its documentation, the likeliest first.

    With batches of as many tokens as the shared prefix has, the first one computes it, and all
    others find its blocks; by default (8,192) some compute it themselves. The cache holds twice
    what is asked. Graphs are padded to the sizes that occur. Its documentation advises flash
    attention, which is a package of its own; `paged|sdpa` is what torch alone can do.
    """
    length = work.cached + work.tail + work.decoded
    prefix_once = {
        "max_batch_tokens": work.cached,
        "max_requests_per_batch": work.requests,
        "num_blocks": 2 * work.requests * -(-length // _BLOCK),
    }
    if device.type == "cpu":  # by default it would take most of the machine's memory
        return (Variant("prefix_once", prefix_once),)
    graphs = {
        "use_cuda_graph": True,
        "use_async_batching": True,
        "q_padding_interval_size": work.requests,
        "kv_padding_interval_size": work.requests * length,
    }
    return (
        Variant("prefix_once", prefix_once),
        Variant("defaults", {}),
        Variant("cuda_graphs", prefix_once | graphs),
        Variant("compiled", prefix_once | {"default_compile_level": 1}),
    )


def continuous_batching_rate(
    folder: Path, shape: Shape, work: Work, device: torch.device, variant: Variant
) -> float:
    """Return tokens a second of `requests` answers, their shared prefix's prefill included.

    Raises:
        RuntimeError: a request failed; with its own words.
    """
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    _free_what_is_left(device)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="paged|sdpa"
    )
    config: Any = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=work.decoded, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    # Its loop has a thread of its own, which inference mode here would not reach.
    opened = model.to(device).continuous_batching_context_manager(
        generation_config=config,
        continuous_batching_config=ContinuousBatchingConfig(**variant.settings),
    )
    rates: list[float] = []
    with opened as manager:
        _run(manager, _prompts("warm-up", work, shape), min(_WARM_UP, work.decoded), device)
        while len(rates) < work.repeats and _seconds(rates, work) < _ENOUGH_S:
            asked = _prompts(f"peer-{len(rates)}", work, shape)
            rates.append(_run(manager, asked, work.decoded, device))
    return statistics.median(rates)


def _free_what_is_left(device: torch.device) -> None:
    """Give back what the variant before it held in this process: manager and model are a cycle."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _prompts(seed: str, work: Work, shape: Shape) -> list[Ids]:
    return shared_prompts(seed, work, shape.vocabulary)


def _seconds(rates: list[float], work: Work) -> float:
    return sum(work.requests * work.decoded / rate for rate in rates)


def _run(manager: Any, prompts: list[Ids], decoded: int, device: torch.device) -> float:
    """Ask for all answers at once; return their tokens a second."""
    synchronize(device)
    begun = perf_counter()
    manager.add_requests([list(ids) for ids in prompts], max_new_tokens=decoded)
    tokens: list[int] = []
    while len(tokens) < len(prompts):
        answer = manager.get_result(timeout=1)
        if answer is None:
            if not manager.is_running():
                raise RuntimeError("its loop ended before all answers")
        elif answer.error is not None:
            raise RuntimeError(answer.error)
        else:
            tokens.append(len(answer.generated_tokens))
    taken = perf_counter() - begun
    if tokens != [decoded] * len(prompts):
        raise RuntimeError(f"answers of {tokens} tokens instead of {decoded} each")
    return sum(tokens) / taken
