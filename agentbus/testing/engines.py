"""Engines that say what a test tells them to, and note what they were asked."""

from __future__ import annotations

from collections.abc import Iterable

from ..config import EngineSettings
from ..context import Prompt
from ..engine import GenerateRequest
from ..engine.fake import WINDOW, FakeEngine, Reply
from ..errors import EngineFailed, Unsupported

__all__ = ["ScriptedEngine"]


class ScriptedEngine(FakeEngine):
    """Gives the replies that it was made with, one a call, in order; then it fails.

    A reply is its text, or a `Reply` that says when it waits and how it fails. One that does not
    fit what is asked, such as text that is no JSON where a schema is given, is not given but stays
    for the next call: the first ends with `Unsupported`. What it reuses and prefills is counted as
    by a real engine, with words as tokens.
    """

    def __init__(
        self,
        replies: Iterable[str | Reply],
        *,
        model: str = "scripted",
        window: int = WINDOW,
        settings: EngineSettings | None = None,
    ) -> None:
        self._replies = [Reply(text=r) if isinstance(r, str) else r for r in replies]
        self._given = 0
        self.requests: list[GenerateRequest] = []
        """What was asked, in order."""
        super().__init__(self._next, model=model, window=window, settings=settings)

    @property
    def prompts(self) -> list[str]:
        """What was read, in order: each turn of a prompt as a line `role: text`, the name of a
        named turn in front of its text, as its model reads it."""
        return [_text(request.prompt) for request in self.requests]

    @property
    def unused(self) -> int:
        """Replies that nobody has asked for."""
        return len(self._replies) - self._given

    def _require_shape(self, request: GenerateRequest, reply: Reply) -> None:
        try:
            super()._require_shape(request, reply)
        except Unsupported:
            self._given -= 1
            raise

    def _next(self, request: GenerateRequest) -> Reply:
        self.requests.append(request)
        if not self.unused:
            model, count = self.capabilities.model, len(self._replies)
            raise EngineFailed(model, f"its script has {count} replies, and this is one more call")
        self._given += 1
        return self._replies[self._given - 1]


def _text(prompt: Prompt | tuple[int, ...]) -> str:
    if not isinstance(prompt, Prompt):
        return f"{len(prompt)} tokens"
    return "\n".join(
        f"{turn.role}: {turn.name}{':' if turn.name else ''}{turn.text}" for turn in prompt.turns
    )
