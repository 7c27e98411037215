"""The engine contract over one local model: requests in, streams of text out.

Compute runs in `driver`'s thread, one request at a time; everything of a request that takes time
(tokenizing, the forward passes, writing KV back) happens there.
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
from agentbus.errors import AgentbusError, Closed, EngineFailed
from agentbus.kv import KeyChain

from .driver import Driver, Job
from .load import Loaded, load
from .runner import Call, Sequence
from .tokens import Detokenizer

__all__ = ["TorchEngine", "load_engine"]

logger = logging.getLogger(__name__)


class _Answer:
    """One job's running call: its text, its times, and what it cost."""

    def __init__(self, job: Job, sequence: Sequence, started: float, text: Detokenizer) -> None:
        self._job = job
        self._sequence = sequence
        self._started = started
        self._first = 0.0
        self._detokenizer = text
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def add(self, token: int) -> None:
        self._first = self._first or time.perf_counter()
        self._post(self._detokenizer.add(token), (token,))

    def end(self) -> Finished:
        if rest := self._detokenizer.rest():
            self._post(rest, ())
        now = time.perf_counter()
        first = self._first or now
        usage = Usage(
            prompt_tokens=len(self._sequence.call.prompt),
            reused_tokens=self._sequence.reused,
            prefilled_tokens=self._sequence.prefilled,
            decoded_tokens=len(self._sequence.generated),
            queue_s=self._started - self._job.submitted,
            prefill_s=first - self._started,
            decode_s=now - first,
            ttft_s=first - self._job.submitted,
        )
        return Finished(self._sequence.reason, usage)

    def _post(self, text: str, ids: tuple[int, ...]) -> None:
        self._parts.append(text)
        self._job.post(Piece(text, ids))


class TorchEngine:
    """One model in this process."""

    def __init__(self, name: str, loaded: Loaded, settings: EngineSettings) -> None:
        self._name = name
        self._loaded = loaded
        self._runner = loaded.runner
        self._log = TokenLog(settings.token_log)
        self._finished = 0
        self._driver = Driver(
            self._work,
            prepare=lambda: torch.set_num_threads(settings.threads or os.cpu_count() or 1),
            name=name,
            limit=settings.queue,
        )
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
            running=self._driver.running,
            finished=self._finished,
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

    def _work(self, job: Job) -> None:
        """Do a job, in the driver's thread. The one place that catches what nobody expected."""
        try:
            job.post(self._compute(job))
        except AgentbusError as error:
            job.post(error)
        except Exception as error:
            logger.exception("the engine of %r failed on a request", self._name)
            job.post(EngineFailed(self._name, f"{type(error).__name__}: {error}"))

    def _compute(self, job: Job) -> Finished:
        started = time.perf_counter()
        request = job.request
        tiers = self._runner.tiers
        chain = None if tiers is None else tiers.chain(request.tenant)
        sequence = self._runner.begin(self._call(job, chain), chain)
        try:
            answer = _Answer(job, sequence, started, Detokenizer(self._loaded.vocabulary))
            while not sequence.reason and not job.cancelled:
                token = self._step(sequence)
                if token is not None:
                    answer.add(token)
            finished = answer.end()
        except BaseException:
            self._runner.abandon(sequence)
            raise
        self._runner.finish(sequence)
        if not sequence.reason:
            raise Closed("call")
        if isinstance(request.prompt, Prompt) and sequence.generated and request.reuse:
            ids = tuple(sequence.generated)
            self._loaded.encoder.remember(
                request.prompt.cue, answer.text, ids, tenant=request.tenant
            )
        self._finished += 1
        self._log.write(
            TokenRecord(
                label=request.label,
                tenant=request.tenant,
                prompt_ids=sequence.call.prompt,
                generated_ids=sequence.generated,
                reused=sequence.reused,
                prefilled=sequence.prefilled,
            )
        )
        return finished

    def _step(self, sequence: Sequence) -> int | None:
        before, started = sequence.prefilled, time.perf_counter()
        token = self._runner.step(sequence)
        tiers = self._runner.tiers
        if tiers is not None and sequence.prefilled > before:
            tiers.prefilled(sequence.prefilled - before, time.perf_counter() - started)
        return token

    def _call(self, job: Job, chain: KeyChain | None) -> Call:
        request, prompt = job.request, job.request.prompt
        if isinstance(prompt, Prompt):
            prompt = self._loaded.encoder.encode(prompt, tenant=request.tenant, cue=job.with_cue)
        request = within_budget(request, len(prompt), self._capabilities.prices)
        key = blake3(self._runner.fingerprint.digest + request.tenant.encode()).digest()
        return Call(
            prompt=prompt,
            max_tokens=request.max_tokens,
            forced=request.forced,
            ignore_end=request.ignore_end,
            reuse=request.reuse,
            namespace=key if chain is None else chain.namespace,
        )


def load_engine(model: str, settings: EngineSettings) -> TorchEngine:
    """Load a model and start its engine. Takes seconds: call it in a thread.

    Raises:
        ModelNotFound, ModelBroken: it cannot be had.
        ConfigError: a setting does not fit this machine.
    """
    return TorchEngine(model, load(model, settings), settings)
