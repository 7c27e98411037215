"""transformers' continuous batching on the same folder, device and prompts."""

from __future__ import annotations

import statistics
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from .floors import synchronize
from .shapes import Shape
from .work import Ids, Work, shared_prompts

__all__ = ["continuous_batching_rate"]

_CPU_BLOCKS, _CPU_ROWS = 64, 256


def continuous_batching_rate(folder: Path, shape: Shape, work: Work, device: torch.device) -> float:
    """Return tokens a second of `requests` answers, their shared prefix's prefill included."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="paged|sdpa"
    )
    model = model.to(device)
    rates = []
    for number in range(work.repeats + 1):
        asked = shared_prompts(f"peer-{number}", work, shape.vocabulary)
        rates.append(_rate(model, asked, work.decoded, device))
    model.destroy_cached_continuous_batching_manager()
    return statistics.median(rates[1:])


def _rate(model: Any, prompts: list[Ids], decoded: int, device: torch.device) -> float:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    config: Any = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=decoded, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    # On a CPU it would take most of the machine's memory, and clear it.
    batching = None
    if device.type == "cpu":
        batching = ContinuousBatchingConfig(num_blocks=_CPU_BLOCKS, max_batch_tokens=_CPU_ROWS)
    synchronize(device)
    begun = perf_counter()
    with torch.inference_mode():
        found = model.generate_batch(
            [list(ids) for ids in prompts],
            generation_config=config,
            continuous_batching_config=batching,
            persistent_manager=True,  # its cache and graphs are made in the run that does not count
        )
    synchronize(device)
    taken = perf_counter() - begun
    tokens = [len(one.generated_tokens) for one in found.values()]
    if tokens != [decoded] * len(prompts):
        raise RuntimeError(f"answers of {tokens} tokens instead of {decoded} each")
    return sum(tokens) / taken
