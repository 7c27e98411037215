"""LLMLingua's own package on the small model: small-model perplexity decides token by token.

Its method is untouched (Jiang et al., LLMLingua, EMNLP 2023; LongLLMLingua, ACL 2024), at the
settings that its README gives, the model in bfloat16 as on the GPUs that it is made for. What is
replaced is around it: how it loads a model, and asks the network for a tokenizer that only its
report of savings needs; and the form of KV caches, which transformers has changed since.
"""

# The peer may not be installed where types are checked; then all of it is Any.
# mypy: allow-subclassing-any

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from llmlingua import PromptCompressor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils.logging import disable_progress_bar

from ..macro.questions import Question
from ..macro.rankings import Count, cut
from . import LLMLINGUA, LONG_LLMLINGUA

__all__ = ["Compressor"]

_SETTINGS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        LLMLINGUA.name: {},
        LONG_LLMLINGUA.name: {
            "rank_method": "longllmlingua",
            "condition_in_question": "after_condition",
            "condition_compare": True,
            "reorder_context": "sort",
            "dynamic_context_compression_ratio": 0.3,
            "context_budget": "+100",
        },
    }
)
_TRIES = 3
_NEAR = 0.05
"""A share of the tokens that it may take; what is no further from these is not tried again."""


class _Cache(DynamicCache):
    """What transformers takes, seen as the package sees a cache: a list of keys and values."""

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        layer: Any = self.layers[number]
        return layer.keys, layer.values


class _Compressor(PromptCompressor):
    def __init__(self, folder: Path) -> None:
        self.tokenizer = self.oai_tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        # Scores in bfloat16 would be too coarse to rank tokens by.
        self.model.lm_head = deepcopy(self.model.lm_head).float()
        self.model.lm_head.register_forward_pre_hook(lambda _, hidden: (hidden[0].float(),))
        self.max_position_embeddings = self.model.config.max_position_embeddings
        self.device = "cpu"
        self.use_llmlingua2 = False
        self.cache_bos_num, self.prefix_bos_num = 10, 100  # the package's own
        self.context_idxs: list[object] = []
        self._perplexities: dict[tuple[str, ...], Any] = {}

    def get_ppl(self, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        cache = None if past_key_values is None else _Cache(map(tuple, past_key_values))
        found = super().get_ppl(*args, past_key_values=cache, **kwargs)
        if not kwargs.get("return_kv"):
            return found
        loss, cache = found
        return loss, [[layer.keys, layer.values] for layer in cache.layers]

    def get_condition_ppl(self, *args: Any, **kwargs: Any) -> Any:
        """Each once: tries that differ in their target only rank the same documents."""
        key = (*args, *kwargs.values())
        if key not in self._perplexities:
            self._perplexities[key] = super().get_condition_ppl(*args, **kwargs)
        return self._perplexities[key]


class Compressor:
    """One model, for both ways."""

    def __init__(self, folder: Path) -> None:
        disable_progress_bar()  # type: ignore[no-untyped-call]
        self._compressor = _Compressor(folder)

    def shorten(self, name: str, question: Question, room: int, count: Count) -> str:
        """Return a question's context in so many tokens at most, as the peer of a name has it.

        What it leaves is up to a third over or under its target, so it is asked up to three times
        with another target. What is a little too long in the end loses its last words.
        """
        best, target = "", float(room)
        for _ in range(_TRIES):
            text = self._compress(name, question, target)
            tokens = count(text)
            if abs(tokens - room) <= _NEAR * room:
                return cut(text, room, count)
            if count(best) < tokens <= room:
                best = text
            target *= room / max(tokens, 1)
        return best or cut(text, room, count)

    def _compress(self, name: str, question: Question, target: float) -> str:
        documents: Sequence[str] = [one.strip() for one in question.documents]
        asked = question.query if name == LONG_LLMLINGUA.name else ""
        with warnings.catch_warnings():
            # Newer versions call the argument `cache`, which older ones do not know.
            warnings.filterwarnings("ignore", "`past_key_values`", FutureWarning)
            found = self._compressor.compress_prompt(
                documents,
                question=asked,
                target_token=target,
                concate_question=False,
                **_SETTINGS[name],
            )
        return str(found["compressed_prompt"])
