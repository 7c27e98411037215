"""A GGUF file's tokenizer, written as `tokenizer.json` with its chat template beside it.

Byte-level BPE whose splitting rule is known by name is rebuilt here. `transformers` converts the
rest; it takes seconds, and knows no splitting rules, so it is the second choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from agentbus.errors import ModelBroken

__all__ = ["write_tokenizer"]

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_SPLITS: Mapping[str, tuple[bool, str]] = {
    "default": (False, _GPT2),
    "gpt-2": (False, _GPT2),
    "smollm": (True, _GPT2),
    "llama-bpe": (False, _LLAMA3),
    "qwen2": (False, _QWEN2),
}
"""By `tokenizer.ggml.pre`: whether digits are first split apart, and the pattern of a word."""

_CONTROL, _USER_DEFINED = 3, 4


def write_tokenizer(source: Path, metadata: Mapping[str, object], folder: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` to `folder`.

    Raises:
        ModelBroken: the file has no usable tokenizer.
    """
    tokens, types = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(types, tuple) or len(tokens) != len(types):
        raise ModelBroken(str(source), "it has no tokenizer; use a complete GGUF file")
    rule = _SPLITS.get(str(metadata.get("tokenizer.ggml.pre", "default")))
    if metadata.get("tokenizer.ggml.model") == "gpt2" and rule is not None:
        _write_bpe(source, metadata, tokens, types, rule, folder)
    else:
        _write_by_transformers(source, folder)
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("bos", "eos"):
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(number, int) and 0 <= number < len(tokens):
            config[f"{name}_token"] = tokens[number]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write_bpe(
    source: Path,
    metadata: Mapping[str, object],
    tokens: list[str],
    types: tuple[int, ...],
    rule: tuple[bool, str],
    folder: Path,
) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise ModelBroken(str(source), "its tokenizer has no merges; use a complete GGUF file")
    pairs = [(left, right) for left, _, right in (str(m).partition(" ") for m in merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    except Exception as error:  # the binding raises bare exceptions
        raise ModelBroken(str(source), f"its tokenizer is damaged ({error})") from error
    digits, pattern = rule
    steps: list[pre_tokenizers.PreTokenizer] = []
    if digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    plain = [t for t, kind in zip(tokens, types, strict=True) if kind == _USER_DEFINED]
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in plain])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def _write_by_transformers(source: Path, folder: Path) -> None:
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(
            str(source.parent), gguf_file=source.name, trust_remote_code=False
        )
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    except Exception as error:  # transformers raises whatever its converters do
        raise ModelBroken(
            str(source), f"its tokenizer is not supported ({error}); use the model's safetensors"
        ) from error
