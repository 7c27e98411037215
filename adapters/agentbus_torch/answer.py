"""One call's answer while it is computed: its text, its times, and what it cost."""

from __future__ import annotations

import time

from agentbus.engine.base import Finished, Piece, Usage

from .driver import Job
from .sequence import Sequence
from .tokens import Detokenizer

__all__ = ["Answer"]


class Answer:
    """Turns a sequence's tokens into what its reader gets."""

    def __init__(self, job: Job, sequence: Sequence, text: Detokenizer) -> None:
        self.job = job
        self.sequence = sequence
        self._started = 0.0
        self._first = 0.0
        self._detokenizer = text
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """All of the answer so far."""
        return "".join(self._parts)

    def start(self, now: float) -> None:
        """Note when computation began; later calls say nothing new."""
        self._started = self._started or now

    def add(self, token: int) -> None:
        """Hand a token on."""
        self._first = self._first or time.perf_counter()
        self._post(self._detokenizer.add(token), (token,))

    def end(self) -> Finished:
        """Hand the rest of the text on, and return what the call cost."""
        if rest := self._detokenizer.rest():
            self._post(rest, ())
        now = time.perf_counter()
        first = self._first or now
        started = self._started or now
        usage = Usage(
            prompt_tokens=len(self.sequence.call.prompt),
            reused_tokens=self.sequence.reused,
            prefilled_tokens=self.sequence.prefilled,
            decoded_tokens=len(self.sequence.generated),
            queue_s=started - self.job.submitted,
            prefill_s=first - started,
            decode_s=now - first,
            ttft_s=first - self.job.submitted,
        )
        return Finished(self.sequence.reason, usage)

    def _post(self, text: str, ids: tuple[int, ...]) -> None:
        self._parts.append(text)
        self.job.post(Piece(text, ids))
