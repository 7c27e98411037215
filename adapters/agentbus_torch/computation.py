"""What the driver's thread does for the engine: jobs to sequences, sequences' tokens to jobs."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

import torch

from agentbus.config import EngineSettings
from agentbus.context.layout import Prompt
from agentbus.engine.base import Finished
from agentbus.engine.token_log import TokenLog, TokenRecord
from agentbus.errors import AgentbusError, EngineFailed

from .answer import Answer
from .choose import Chosen
from .driver import Job
from .in_team import InTeam, process_team
from .load import Loaded
from .openmp import let_threads_go
from .runner import Outcomes
from .sequence import Sequence
from .spoken import Spoken

if TYPE_CHECKING:
    from agentbus.transport.kv_feed import KVEventFeed

__all__ = ["Computation"]

logger = logging.getLogger(__name__)


class Computation:
    """The `Worker` of one engine's driver."""

    def __init__(self, name: str, loaded: Loaded, settings: EngineSettings) -> None:
        self._name = name
        self._loaded = loaded
        self._runner = loaded.runner
        if self._runner.model.device.type == "cpu":
            most = settings.threads or os.cpu_count() or 1
            self._runner.steps = InTeam(self._runner.steps, process_team(), most)
        self._log = TokenLog(settings.token_log)
        self._answers: dict[Sequence, Answer] = {}
        self._by_job: dict[Job, Answer] = {}
        self.finished = 0
        self.feed: KVEventFeed | None = None
        """Takes what the pool stores and removes."""

    @property
    def running(self) -> int:
        return self._runner.running

    def prepare(self) -> None:
        device = self._runner.model.device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where kernels and graphs of this thread go

    def begin(self, job: Job) -> bool:
        try:
            tiers, loaded = self._runner.tiers, self._loaded
            chain = None if tiers is None else tiers.chain(job.request.tenant)
            spoken = Spoken(job.request, loaded.vocabulary, loaded.tool_format)
            sequence = self._runner.add(job.make_call(), chain)
        except Exception as error:  # noqa: BLE001 - logged in `_as_typed`
            job.post(self._as_typed(error))
            return False
        self._answers[sequence] = self._by_job[job] = Answer(job, sequence, spoken)
        return True

    def step(self) -> list[Job]:
        now = time.perf_counter()
        outcomes = self._compute(now)
        self._tell()
        for answer in self._answers.values():
            if answer.sequence.lease is not None:
                answer.start(now)
        for sequence, chosen in outcomes:
            if chosen is not None:
                self._hand_on(self._answers[sequence], chosen)
        return [self._answers[sequence].job for sequence, _ in outcomes if sequence.ended]

    def end(self, job: Job) -> None:
        answer = self._by_job[job]
        result: Finished | AgentbusError
        try:
            if answer.sequence.error is not None:
                raise answer.sequence.error
            result = self._finish(answer)
        except Exception as error:  # noqa: BLE001 - logged in `_as_typed`
            answer.sequence.error = error
            result = self._as_typed(error)
        self.cancel(job)
        job.post(result)

    def _compute(self, now: float) -> Outcomes:
        """Run a step. The one place that catches what nobody expected."""
        try:
            outcomes = self._runner.step()
        except Exception as error:  # noqa: BLE001 - logged in `_as_typed`
            for sequence in self._answers:
                sequence.error = sequence.error or error
            return [(sequence, None) for sequence in self._answers]
        if self._runner.tiers is not None and self._runner.prompt_rows:
            took = time.perf_counter() - now
            self._runner.tiers.prefilled(self._runner.prompt_rows, took)
        return outcomes

    def cancel(self, job: Job) -> None:
        answer = self._by_job.pop(job)
        del self._answers[answer.sequence]
        self._runner.finish(answer.sequence)
        self._tell()

    def rest(self) -> None:
        let_threads_go()

    def _tell(self) -> None:
        events = self._loaded.kv_events
        if events and self.feed is not None:
            self.feed.tell(events)
            events.clear()

    def _hand_on(self, answer: Answer, chosen: Chosen) -> None:
        """Hand a token to its reader. What breaks is this call's own: the thread serves others."""
        try:
            answer.add(chosen)
        except Exception as error:  # noqa: BLE001 - logged in `_as_typed`
            answer.sequence.error = error

    def _finish(self, answer: Answer) -> Finished:
        """Keep what is known of an answer that has ended well."""
        sequence, request = answer.sequence, answer.job.request
        finished = answer.end()
        sequence.step = finished.step
        vocabulary, prompt = self._loaded.vocabulary, request.prompt
        marked = any(vocabulary.special_text(token) for token in request.forced)
        if isinstance(prompt, Prompt) and sequence.decoded and request.reuse and not marked:
            text, ids = answer.spoken.spoken()
            self._loaded.encoder.remember(prompt.cue, text, ids, tenant=request.tenant)
        self._log.write(
            TokenRecord(
                label=request.label,
                tenant=request.tenant,
                prompt_ids=sequence.call.prompt,
                generated_ids=tuple(sequence.generated),
                reused=sequence.reused,
                prefilled=sequence.prefilled,
            )
        )
        self.finished += 1
        return finished

    def _as_typed(self, error: Exception) -> AgentbusError:
        if isinstance(error, AgentbusError):
            return error
        logger.error("the engine of %r failed on a request", self._name, exc_info=error)
        return EngineFailed(self._name, f"{type(error).__name__}: {error}")
