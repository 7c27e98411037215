"""The engine contract over one local model: requests in, streams of text out.

Compute runs in `driver`'s thread, a step of all running requests at a time; everything of a request
that takes time (tokenizing, the forward passes, writing KV back) happens there.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import torch
from blake3 import blake3

from agentbus.config import EngineSettings
from agentbus.context.layout import Prompt
from agentbus.engine.base import (
    Capabilities,
    EngineStats,
    Finished,
    GenerateRequest,
    Piece,
    Usage,
    within_budget,
)
from agentbus.engine.token_log import TokenLog, TokenRecord
from agentbus.errors import AgentbusError, EngineFailed
from agentbus.kv import KeyChain

from .answer import Answer
from .driver import Driver, Job
from .load import Loaded, load
from .sequence import Call, Sequence
from .tokens import Detokenizer

__all__ = ["TorchEngine", "load_engine"]

logger = logging.getLogger(__name__)


class _Computation:
    """What the driver's thread does: jobs to sequences, sequences' tokens to jobs."""

    def __init__(self, name: str, loaded: Loaded, settings: EngineSettings) -> None:
        self._name = name
        self._loaded = loaded
        self._runner = loaded.runner
        self._threads = settings.threads or os.cpu_count() or 1
        self._prices = settings.prices
        self._log = TokenLog(settings.token_log)
        self._answers: dict[Sequence, Answer] = {}
        self._by_job: dict[Job, Answer] = {}
        self.finished = 0

    @property
    def running(self) -> int:
        return self._runner.running

    def prepare(self) -> None:
        torch.set_num_threads(self._threads)

    def begin(self, job: Job) -> bool:
        try:
            tiers = self._runner.tiers
            chain = None if tiers is None else tiers.chain(job.request.tenant)
            sequence = self._runner.add(self._call(job, chain), chain)
            answer = Answer(job, sequence, Detokenizer(self._loaded.vocabulary))
        except Exception as error:  # noqa: BLE001 - logged in `_as_typed`
            job.post(self._as_typed(error))
            return False
        self._answers[sequence] = self._by_job[job] = answer
        return True

    def step(self) -> list[Job]:
        now = time.perf_counter()
        outcomes = self._compute(now)
        for answer in self._answers.values():
            if answer.sequence.lease is not None:
                answer.start(now)
        ended = []
        for sequence, token in outcomes:
            answer = self._answers[sequence]
            if token is not None:
                answer.add(token)
            if sequence.ended:
                self._end(answer)
                ended.append(answer.job)
        return ended

    def _compute(self, now: float) -> list[tuple[Sequence, int | None]]:
        """Run a step. The one place that catches what nobody expected."""
        try:
            outcomes = self._runner.step()
        except Exception as error:  # noqa: BLE001 - logged in `_as_typed`
            for sequence in self._answers:
                sequence.error = sequence.error or error
            return [(sequence, None) for sequence in self._answers]
        if self._runner.tiers is not None and self._runner.prompt_rows:
            self._runner.tiers.prefilled(self._runner.prompt_rows, time.perf_counter() - now)
        return outcomes

    def cancel(self, job: Job) -> None:
        answer = self._by_job.pop(job)
        del self._answers[answer.sequence]
        self._runner.finish(answer.sequence)

    def _end(self, answer: Answer) -> None:
        """Free what a sequence holds, then tell its reader how it ended."""
        sequence, job = answer.sequence, answer.job
        self.cancel(job)
        if sequence.error is not None:
            job.post(self._as_typed(sequence.error))
            return
        finished = answer.end()
        request = job.request
        if isinstance(request.prompt, Prompt) and sequence.generated and request.reuse:
            ids = tuple(sequence.generated)
            self._loaded.encoder.remember(
                request.prompt.cue, answer.text, ids, tenant=request.tenant
            )
        self.finished += 1
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
        job.post(finished)

    def _call(self, job: Job, chain: KeyChain | None) -> Call:
        request, prompt = job.request, job.request.prompt
        if isinstance(prompt, Prompt):
            prompt = self._loaded.encoder.encode(prompt, tenant=request.tenant, cue=job.with_cue)
        request = within_budget(request, len(prompt), self._prices)
        key = blake3(self._runner.fingerprint.digest + request.tenant.encode()).digest()
        return Call(
            prompt=prompt,
            max_tokens=request.max_tokens,
            forced=request.forced,
            ignore_end=request.ignore_end,
            reuse=request.reuse,
            namespace=key if chain is None else chain.namespace,
        )

    def _as_typed(self, error: Exception) -> AgentbusError:
        if isinstance(error, AgentbusError):
            return error
        logger.error("the engine of %r failed on a request", self._name, exc_info=error)
        return EngineFailed(self._name, f"{type(error).__name__}: {error}")


class TorchEngine:
    """One model in this process."""

    def __init__(self, name: str, loaded: Loaded, settings: EngineSettings) -> None:
        self._loaded = loaded
        self._runner = loaded.runner
        self._computation = _Computation(name, loaded, settings)
        self._driver = Driver(self._computation, name=name, limit=settings.queue)
        self._capabilities = Capabilities(
            model=name,
            window=loaded.runner.window,
            prefix_reuse=True,
            append_only_template=loaded.template.append_only,
            prices=settings.prices,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        return self._capabilities

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece | Finished, None]:
        """Stream the answer to one prompt: pieces, then one `Finished`.

        Closing the generator, or cancelling its task, stops the computation within one step (a
        token, or a chunk of the prompt) and returns when its blocks are free.

        Raises:
            ContextTooLong: prompt and answer do not fit the window.
            KVExhausted: the pool has no room left that may be evicted.
            LayoutError: the model's template cannot render the prompt.
            MailboxFull: too many requests wait.
            EngineFailed: the computation broke; other requests go on.
        """
        async with aclosing(self._stream(Job(request))) as results:
            async for result in results:
                yield result

    def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        """Render a whole prompt by the model's own chat template and tokenize it as one text."""
        return self._loaded.encoder.encode_as_one(prompt)

    async def prefill(self, prompt: Prompt, *, tenant: str = "") -> Usage:
        """Compute a prompt's KV ahead of its use, without its cue if that has no text.

        Raises as `generate` does.
        """
        request = GenerateRequest(prompt=prompt, max_tokens=0, tenant=tenant)
        usage = Usage()
        job = Job(request, with_cue=bool(prompt.cue.text))
        async with aclosing(self._stream(job)) as results:
            async for result in results:
                if isinstance(result, Finished):
                    usage = result.usage
        return usage

    def stats(self) -> EngineStats:
        """Return the state of pool and queue."""
        pool = self._runner.stats()
        return EngineStats(
            total_blocks=pool.total,
            free_blocks=pool.free,
            cached_blocks=pool.cached,
            locked_blocks=pool.locked,
            waiting=self._driver.waiting,
            running=self._runner.running,
            finished=self._computation.finished,
        )

    async def aclose(self) -> None:
        """End running calls with `Closed`, free the model."""
        await self._driver.aclose()
        if self._runner.tiers is not None:
            self._runner.tiers.close()

    async def _stream(self, job: Job) -> AsyncGenerator[Piece | Finished, None]:
        self._driver.submit(job)
        try:
            while True:
                result = await job.next()
                if isinstance(result, AgentbusError):
                    raise result
                yield result
                if isinstance(result, Finished):
                    return
        finally:
            await self._driver.withdraw(job)


def load_engine(model: str, settings: EngineSettings) -> TorchEngine:
    """Load a model and start its engine. Takes seconds: call it in a thread.

    Raises:
        ModelNotFound, ModelBroken: it cannot be had.
        ConfigError: a setting does not fit this machine.
    """
    return TorchEngine(model, load(model, settings), settings)
