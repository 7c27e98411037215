"""transformers' `generate` on the CPU, in the asking process.

bfloat16, `sdpa`, inference mode, greedy. Answers are decoded with a static cache, a batch as one
`generate` of prompts of equal length, which needs no padding. Where only the first token is asked
for, the cache of the last prompt is kept, cut back to what the next prompt of the same salt has in
common with it, and passed on, as the library's guide on caches describes.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.generation.streamers import BaseStreamer
from transformers.utils.logging import disable_progress_bar

from ..macro.engine_asks import Answer, Asked, Ids, in_process

__all__ = ["contend"]


class _Clock(BaseStreamer):
    """Notes when tokens come; `generate` hands it the prompt first."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def put(self, value: object) -> None:
        self.moments.append(perf_counter())

    def end(self) -> None:
        pass


class Generator:
    """One model."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        self._cache: Any = None
        self._cached: Ids = ()
        self._salt = ""

    async def answer(
        self, prompts: Sequence[Asked], max_tokens: int, salt: str
    ) -> Sequence[Answer]:
        """Generate for all prompts as one batch, off the event loop."""
        return await asyncio.to_thread(self._answer, [p.ids for p in prompts], max_tokens, salt)

    def _answer(self, prompts: Sequence[Ids], max_tokens: int, salt: str) -> Sequence[Answer]:
        clock, asked = _Clock(), perf_counter()
        cache, reused = self._choose_cache(prompts, max_tokens, salt)
        rows = torch.tensor(prompts)
        with torch.inference_mode():
            found = self._model.generate(
                rows,
                attention_mask=torch.ones_like(rows),
                max_new_tokens=max_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                streamer=clock,
                **cache,
            )
        answer = in_process(
            asked=asked,
            first=clock.moments[1],
            last=clock.moments[-1],
            tokens=found.shape[1] - rows.shape[1],
            reused=reused,
        )
        return [answer] * len(prompts)

    def _choose_cache(
        self, prompts: Sequence[Ids], max_tokens: int, salt: str
    ) -> tuple[dict[str, object], int]:
        """Return the arguments that name the cache, and how many tokens it holds of the prompt."""
        if len(prompts) > 1 or max_tokens > 1:
            return {"cache_implementation": "static"}, 0
        kept = self._cut_back(prompts[0], salt)
        self._cached, self._salt = prompts[0], salt
        return {"past_key_values": self._cache}, kept

    def _cut_back(self, prompt: Ids, salt: str) -> int:
        """Keep of the cache what the prompt has in common with it, but for its last token."""
        kept = 0
        if salt == self._salt:
            pairs = enumerate(zip(prompt[:-1], self._cached, strict=False))
            most = min(len(prompt) - 1, len(self._cached))
            kept = next((place for place, (a, b) in pairs if a != b), most)
        if not kept:
            self._cache = DynamicCache(config=self._model.config)
        elif kept < len(self._cached):
            self._cache.crop(kept - len(self._cached))
        return kept


@asynccontextmanager
async def contend(folder: Path, threads: int) -> AsyncGenerator[Generator, None]:
    """Load the model in this process."""
    torch.set_num_threads(threads)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    # Newer versions call the argument `cache`, which older ones do not know.
    warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)
    yield await asyncio.to_thread(Generator, folder)
