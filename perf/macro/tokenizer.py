"""The small model's tokenizer and chat template, without its weights."""

from __future__ import annotations

from agentbus_torch.chat import read_chat_template
from agentbus_torch.convert import converted
from agentbus_torch.locate import SMALL_MODEL, locate
from agentbus_torch.tokens import PromptEncoder, Vocabulary

from agentbus.context import probe
from agentbus.errors import ModelNotFound

__all__ = ["Tokenizer", "load_tokenizer"]


class Tokenizer:
    """Texts and prompts to token ids."""

    def __init__(self, vocabulary: Vocabulary, encoder: PromptEncoder) -> None:
        self.plain = vocabulary.plain
        self.count = vocabulary.count
        self.prompts = encoder


def load_tokenizer() -> Tokenizer | None:
    """Return SmolLM2's, or None if the package that ships the model is not installed.

    Its files are converted once and cached, as for the engine.
    """
    try:
        folder = converted(locate(SMALL_MODEL).path, "")
    except ModelNotFound:
        return None
    vocabulary = Vocabulary.load(folder)
    return Tokenizer(vocabulary, PromptEncoder(vocabulary, probe(read_chat_template(folder))))
