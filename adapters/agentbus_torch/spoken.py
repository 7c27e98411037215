"""One answer, from the tokens that were chosen to what its reader gets.

Tokens become text, stop texts end it, calls of tools are taken out of it, and log-probabilities
get their tokens' texts. Nothing here computes or waits.
"""

from __future__ import annotations

from agentbus.engine import (
    Alternative,
    Finished,
    GenerateRequest,
    Piece,
    TokenLogprob,
    ToolCall,
    Usage,
)
from agentbus.engine.stop import StopScanner
from agentbus.engine.tools import tool_parameters

from .choose import Chosen
from .tokens import Detokenizer, Vocabulary
from .tool_calls import ToolCallReader, ToolFormat

__all__ = ["Spoken"]


class Spoken:
    """What was said so far."""

    def __init__(
        self, request: GenerateRequest, vocabulary: Vocabulary, tool_format: ToolFormat
    ) -> None:
        self._vocabulary = vocabulary
        self._detokenizer = Detokenizer(vocabulary)
        self._stops = StopScanner(request.stop)
        names = frozenset(tool_parameters(request.tools))
        reads = bool(names) and request.tool_choice != "none"
        self._calls = ToolCallReader(tool_format, names) if reads else None
        self._ids: list[int] = []
        self._parts: list[str] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop text was met: the answer has ended."""
        return bool(self._stops.found)

    def add(self, chosen: Chosen) -> Piece:
        """Take the next token; return what may be shown now."""
        token = chosen.token
        self._ids.append(token)
        text = self._detokenizer.add(token)
        mark = self._vocabulary.special_text(token) if self._calls else ""
        if mark:  # a tag of a call that is a special token, which is text to nobody else
            text += self._detokenizer.rest() + mark
        logprobs = (self._logprob(chosen),) if chosen.reported else ()
        return Piece(self._through(self._stops.add(text)), (token,), logprobs)

    def end(self, reason: str, usage: Usage) -> tuple[str, Finished]:
        """Return the text that was held back, and how the answer ended."""
        text = ""
        if not self.stopped:
            text = self._stops.add(self._detokenizer.rest())
            text += self._stops.rest()
        text = self._through(text)
        calls: tuple[ToolCall, ...] = ()
        malformed = 0
        if self._calls is not None:
            text += self._calls.rest()
            calls, malformed = tuple(self._calls.calls), self._calls.malformed
        if self.stopped:
            reason = "stop"
        if calls and reason in ("end", "stop"):
            reason = "tool_calls"
        return text, Finished(reason, usage, calls, malformed, self._stops.found)

    def spoken(self) -> tuple[str, tuple[int, ...]]:
        """Return the answer's text, calls included, and the ids that are exactly this text.

        Where a stop text begins within a token, there are none.
        """
        text = "".join(self._parts)
        if not self.stopped:
            return text, tuple(self._ids)
        for length in range(len(self._ids), 0, -1):
            decoded = self._vocabulary.decode(self._ids[:length])
            if decoded == text:
                return text, tuple(self._ids[:length])
            if len(decoded) < len(text):
                break
        return text, ()

    def _through(self, text: str) -> str:
        self._parts.append(text)
        return self._calls.add(text) if self._calls else text

    def _logprob(self, chosen: Chosen) -> TokenLogprob:
        assert chosen.reported is not None
        logprob, top = chosen.reported
        decode = self._vocabulary.decode
        alternatives = tuple(Alternative(token, decode([token]), value) for token, value in top)
        return TokenLogprob(chosen.token, decode([chosen.token]), logprob, alternatives)
