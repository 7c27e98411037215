"""Tokens are counted as a model does, without opening an engine on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentbus.engine import open_tokenizer
from agentbus.errors import ConfigError, ModelNotFound, UnknownEngine


def test_what_has_no_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnknownEngine):
        open_tokenizer("nothing:model")
    with pytest.raises(ConfigError, match="no tokenizers"):
        open_tokenizer("fake:echo")
    with pytest.raises(ModelNotFound):
        open_tokenizer(str(tmp_path / "missing"))


@pytest.mark.model
def test_the_small_model_counts_its_tokens() -> None:
    try:
        count = open_tokenizer("smollm2")
    except ModelNotFound as error:
        pytest.skip(str(error))
    assert count("") == 0
    assert count("hello world") == 2
    assert count("<|im_start|>") > 1
