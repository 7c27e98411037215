"""The small model as a folder of config, tokenizer and safetensors, which every engine can load."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from agentbus_torch.chat import read_chat_template
from agentbus_torch.config import read_config
from agentbus_torch.convert import converted
from agentbus_torch.locate import SMALL_MODEL, locate
from agentbus_torch.tokens import PromptEncoder, Vocabulary

from agentbus.context import probe
from agentbus.errors import EngineError

from .children import ChildFailed

__all__ = ["Tokens", "small_model", "tokens_of"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """How a model folder writes text as tokens."""

    vocabulary: Vocabulary
    encoder: PromptEncoder
    ends: Collection[int]
    """Tokens that end an answer."""


async def small_model() -> Path:
    """Return SmolLM2's folder, converting the model once.

    Raises:
        ChildFailed: it is not installed, or is broken.
    """
    try:
        return await asyncio.to_thread(converted, locate(SMALL_MODEL).path, "")
    except EngineError as error:
        raise ChildFailed(str(error)) from error


def tokens_of(folder: Path) -> Tokens:
    """Read a folder's tokenizer and chat template. Raises `ModelBroken`."""
    vocabulary = Vocabulary.load(folder)
    encoder = PromptEncoder(vocabulary, probe(read_chat_template(folder)))
    return Tokens(vocabulary, encoder, {*read_config(folder).end_ids, *encoder.markup_ids})
