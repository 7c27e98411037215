"""How a model reads text is known without opening an engine on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentbus.engine import open_model_text
from agentbus.errors import ConfigError, ModelNotFound, UnknownEngine


def test_what_has_no_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnknownEngine):
        open_model_text("nothing:model")
    with pytest.raises(ConfigError, match="no tokenizers"):
        open_model_text("fake:echo")
    with pytest.raises(ModelNotFound):
        open_model_text(str(tmp_path / "missing"))


@pytest.mark.model
def test_the_small_model_counts_its_tokens() -> None:
    try:
        count, template = open_model_text("smollm2")
    except ModelNotFound as error:
        pytest.skip(str(error))
    assert count("") == 0
    assert count("hello world") == 2
    assert count("<|im_start|>") > 1
    assert template is not None
    assert template.append_only, template.problem
