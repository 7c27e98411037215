"""Answers kept to a grammar: a JSON schema, or a call of a tool.

The work is llguidance's (guidance-ai; the extra `grammar`): it compiles a schema to a parser, and
says for each step which tokens may come next. Here are its limits, its errors as ours, and a small
cache, since agents ask for the same schema again and again.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import orjson
import torch
from torch import Tensor

from agentbus.errors import ConfigError, InvalidSchema

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["Grammars", "Matcher", "allowed", "is_available", "json_rule"]

MAX_GRAMMARS = 64
"""Compiled grammars that are kept, the least recently used forgotten first."""
MAX_SYMBOLS = 20_000
"""Size of a grammar, as llguidance counts it: compiling takes longer than in proportion to it. An
object may have some 500 properties."""
_BLANKS = r" ?"
"""What may stand between the parts of a JSON text: more would let a small model write blanks for
ever."""
_COMPILING = "failed to compile JSON schema: "
_REPEATED = re.compile(r"\n\s*1 \| ")
_MAX_PROBLEM = 500
"""Characters of llguidance's explanation that are passed on."""


def is_available() -> bool:
    """Return whether llguidance is installed."""
    from importlib.util import find_spec

    return find_spec("llguidance") is not None


class Matcher:
    """Where one answer stands in its grammar."""

    def __init__(self, parser: LLMatcher) -> None:
        self._parser = parser
        self.error: InvalidSchema | None = None
        """The grammar grew beyond llguidance's limits; anything is allowed then."""

    def fill(self, mask: Tensor) -> None:
        """Write the tokens that may come next as bits of int32 [(vocabulary + 31) // 32]."""
        self._parser.unsafe_compute_mask_ptr(mask.data_ptr(), mask.numel() * mask.element_size())
        if self._failed():
            mask.fill_(-1)

    def accept(self, token: int) -> bool:
        """Go on with a token; return whether nothing may follow it."""
        self._parser.consume_token(token)
        return not self._failed() and bool(self._parser.is_stopped())

    def _failed(self) -> bool:
        if self._parser.is_error() and self.error is None:
            self.error = InvalidSchema(_shortened(self._parser.get_error()))
        return self.error is not None


def allowed(matchers: Sequence[Matcher], vocabulary: int) -> Tensor:
    """Return which tokens may come next, as booleans [rows, vocabulary] on the CPU."""
    words = torch.zeros(len(matchers), (vocabulary + 31) // 32, dtype=torch.int32)
    for row, matcher in zip(words, matchers, strict=True):
        matcher.fill(row)
    bits = words.view(torch.uint8)[:, :, None] >> torch.arange(8, dtype=torch.uint8)
    return (bits & 1).bool().view(len(matchers), -1)[:, :vocabulary]


class Grammars:
    """Compiles grammars for one model's tokens, in the thread of whoever asks.

    The tokenizer is read when the first is needed.
    """

    def __init__(self, tokenizer: str, vocabulary: int, end_ids: Sequence[int]) -> None:
        """Take a tokenizer as the JSON text of its `tokenizer.json`.

        Args:
            vocabulary: of the model; it may be larger than the tokenizer's.
            end_ids: tokens that end an answer.
        """
        self._json = tokenizer
        self._vocabulary = vocabulary
        self._end_ids = list(end_ids)
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def of_schema(self, schema: Mapping[str, object]) -> Matcher:
        """Keep an answer to a JSON schema.

        Raises:
            InvalidSchema: llguidance cannot compile it.
            ConfigError: llguidance is not installed, or cannot use the model's tokenizer.
        """
        return self.of_text("start: " + json_rule(schema))

    def of_text(self, grammar: str) -> Matcher:
        """Keep an answer to a grammar in llguidance's dialect of Lark. Raises as `of_schema`."""
        with self._lock:
            compiled = self._compiled.pop(grammar, None)
            if compiled is None:
                compiled = self._compile(grammar)
            self._compiled[grammar] = compiled
            if len(self._compiled) > MAX_GRAMMARS:
                self._compiled.popitem(last=False)
            return Matcher(compiled.deep_copy())

    def _compile(self, grammar: str) -> LLMatcher:
        try:
            from llguidance import LLMatcher, LLParserLimits, LLTokenizer
        except ImportError as error:
            raise ConfigError(
                "schema",
                f"it needs a package that is not installed ({error}); "
                "install it with: pip install 'fm-agentbus[grammar]'",
            ) from error
        if self._tokenizer is None:
            try:
                self._tokenizer = LLTokenizer(
                    self._json, n_vocab=self._vocabulary, eos_token=self._end_ids
                )
            except ValueError as error:
                problem = f"this model's tokenizer cannot be kept to one ({error})"
                raise ConfigError("schema", problem) from error
        parser = LLMatcher(
            self._tokenizer,
            LLMatcher.grammar_from_lark(grammar),
            log_level=0,
            limits=LLParserLimits(max_grammar_size=MAX_SYMBOLS),
        )
        if parser.is_error():
            raise InvalidSchema(_shortened(parser.get_error()))
        return parser


def json_rule(schema: Mapping[str, object]) -> str:
    """Return a schema as the right side of a rule of Lark."""
    return (
        "%json "
        + orjson.dumps(
            {**schema, "x-guidance": {"whitespace_pattern": _BLANKS}}, default=dict
        ).decode()
    )


def _shortened(problem: str) -> str:
    """Return llguidance's explanation as one line, without the grammar that it repeats."""
    told = _REPEATED.split(problem)[0].rpartition(_COMPILING)[2]
    return " ".join(told.split())[:_MAX_PROBLEM]
