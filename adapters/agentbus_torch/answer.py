"""One call's answer while it is computed: its text, its times, and what it cost."""

from __future__ import annotations

import time

from agentbus.engine.base import Finished, Piece, Usage

from .choose import Chosen
from .driver import Job
from .sequence import Sequence
from .spoken import Spoken

__all__ = ["Answer"]


class Answer:
    """Turns a sequence's tokens into what its reader gets."""

    def __init__(self, job: Job, sequence: Sequence, spoken: Spoken) -> None:
        self.job = job
        self.sequence = sequence
        self._started = 0.0
        self._first = 0.0
        self.spoken = spoken

    def start(self, now: float) -> None:
        """Note when computation began; later calls say nothing new."""
        self._started = self._started or now

    def add(self, chosen: Chosen) -> None:
        """Hand a token on; a stop text ends the sequence."""
        self._first = self._first or time.perf_counter()
        self.job.post(self.spoken.add(chosen))
        if self.spoken.stopped:
            self.sequence.reason = "stop"

    def end(self) -> Finished:
        """Hand the rest of the text on, and return what the call cost."""
        now = time.perf_counter()
        first = self._first or now
        started = self._started or now
        usage = Usage(
            prompt_tokens=len(self.sequence.call.prompt),
            reused_tokens=self.sequence.reused,
            prefilled_tokens=self.sequence.prefilled,
            decoded_tokens=self.sequence.decoded,
            queue_s=started - self.job.submitted,
            prefill_s=first - started,
            decode_s=now - first,
            ttft_s=first - self.job.submitted,
        )
        rest, finished = self.spoken.end(self.sequence.reason, usage)
        if rest:
            self.job.post(Piece(rest, ()))
        return finished
