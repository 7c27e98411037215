"""The engine contract over one local model: requests in, streams of text out.

Compute runs in `driver`'s thread, a step of all running requests at a time; everything of a request
that takes time (tokenizing, the forward passes, writing KV back) happens there.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator
from collections.abc import Sequence as Continuations
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
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
from agentbus.engine.scoring import Scores, Vectors, check_budget, check_continuations, check_texts
from agentbus.engine.token_log import TokenLog, TokenRecord
from agentbus.engine.tools import tool_parameters
from agentbus.errors import AgentbusError, ContextTooLong, EngineFailed
from agentbus.telemetry import Budget

from .answer import Answer
from .choose import Chooser, Chosen
from .driver import Driver, Job
from .embed import MeanPool
from .grammar import Matcher, is_available
from .load import Loaded, load
from .runner import Outcomes
from .score import ContinuationScore
from .sequence import Call, Sequence
from .spoken import Spoken

if TYPE_CHECKING:
    from agentbus.transport.kv_feed import KVEventFeed

__all__ = ["TorchEngine", "load_engine"]

logger = logging.getLogger(__name__)


class _Computation:
    """What the driver's thread does: jobs to sequences, sequences' tokens to jobs."""

    def __init__(self, name: str, loaded: Loaded, settings: EngineSettings) -> None:
        self._name = name
        self._loaded = loaded
        self._runner = loaded.runner
        self._threads = settings.threads or os.cpu_count() or 1
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
        torch.set_num_threads(self._threads)
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
        ended = []
        for sequence, chosen in outcomes:
            answer = self._answers[sequence]
            if chosen is not None:
                self._hand_on(answer, chosen)
            if sequence.ended:
                self._end(answer)
                ended.append(answer.job)
        return ended

    def _compute(self, now: float) -> Outcomes:
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
        self._tell()

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

    def _end(self, answer: Answer) -> None:
        """Free what a sequence holds, then tell its reader how it ended."""
        sequence, job = answer.sequence, answer.job
        result: Finished | AgentbusError
        try:
            if sequence.error is not None:
                raise sequence.error
            result = self._finish(answer)
        except Exception as error:  # noqa: BLE001 - logged in `_as_typed`
            sequence.error = error
            result = self._as_typed(error)
        self.cancel(job)
        job.post(result)

    def _finish(self, answer: Answer) -> Finished:
        """Keep what is known of an answer that has ended well."""
        sequence, request = answer.sequence, answer.job.request
        finished = answer.end()
        sequence.step = finished.step
        vocabulary, prompt = self._loaded.vocabulary, request.prompt
        marked = any(vocabulary.special_text(token) for token in request.forced)
        if isinstance(prompt, Prompt) and sequence.generated and request.reuse and not marked:
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
            sampling=True,
            schema=is_available(),
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
            InvalidSchema: the schema, or a tool's, cannot constrain an answer.
            ConfigError: constraining needs a package that is not installed.
            EngineFailed: the computation broke; other requests go on.
        """
        matcher = None
        if request.schema is not None or request.must_call:
            # compiling may take a while, in which others' tokens shall go on
            matcher = await anyio.to_thread.run_sync(self._matcher, request)
        job = Job(request, partial(self._answer_call, request, matcher))
        async with aclosing(self._stream(job)) as results:
            async for result in results:
                yield result

    def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        """Render a whole prompt by the model's own chat template and tokenize it as one text."""
        return self._loaded.encoder.encode_as_one(prompt)

    async def prefill(self, prompt: Prompt, *, tenant: str = "", owner: str = "") -> Usage:
        """Compute a prompt's KV ahead of its use, without its cue if that has no text.

        Raises as `generate` does.
        """
        request = GenerateRequest(prompt=prompt, max_tokens=0, tenant=tenant, owner=owner)
        return await self._run(Job(request, partial(self._prefill_call, request)))

    async def score(
        self,
        prompt: Prompt | tuple[int, ...],
        continuations: Continuations[str | tuple[int, ...]],
        *,
        tenant: str = "",
        budget: Budget | None = None,
    ) -> Scores:
        """Return continuations' log-probabilities; see `agentbus.engine.Scorer`.

        All tokens of a continuation are scored in one pass, behind the prompt's reused KV.
        """
        check_continuations(continuations)
        self._check_texts([one for one in continuations if isinstance(one, str)])
        request = GenerateRequest(prompt=prompt, max_tokens=0, tenant=tenant, budget=budget)
        ids = await anyio.to_thread.run_sync(self._loaded.vocabulary.each_plain, continuations)
        usage, scores = Usage(), []
        for at in range(len(ids)):
            sinks: list[ContinuationScore] = []
            make_call = partial(self._score_call, request, ids[at:], sinks)
            usage += await self._run(Job(request, make_call))
            scores.append(sinks[0].score())
            request = replace(request, budget=None)  # it pays for all, or the first was refused
        return Scores(tuple(scores), usage)

    async def embed(self, texts: Continuations[str], *, budget: Budget | None = None) -> Vectors:
        """Return texts' vectors; see `agentbus.engine.Embedder`. No KV is reused or kept."""
        check_texts(texts)
        self._check_texts(texts)
        ids = await anyio.to_thread.run_sync(self._loaded.vocabulary.each_plain, texts)
        check_budget(sum(map(len, ids)), budget, self._capabilities.prices)
        request = GenerateRequest(prompt=(), max_tokens=0)
        usage, vectors = Usage(), []
        for text in ids:
            pool = MeanPool(self._runner.model.normed)
            make_call = partial(Call, prompt=text, max_tokens=0, reuse=False, rows=pool)
            usage += await self._run(Job(request, make_call))
            vectors.append(pool.vector())
        return Vectors(tuple(vectors), usage)

    def publish(self, feed: KVEventFeed) -> None:
        """Tell a feed what the pool stores and removes, and close it with the engine.

        To be called before the first request, if the settings have `kv_events`.
        """
        self._computation.feed = feed

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
        """End running calls with `Closed`, keep on disk what KV the settings have room for."""
        await self._driver.aclose()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._runner.close)
        if self._computation.feed is not None:
            self._computation.feed.close()

    async def _run(self, job: Job) -> Usage:
        """Do a job that answers nothing."""
        usage = Usage()
        async with aclosing(self._stream(job)) as results:
            async for result in results:
                if isinstance(result, Finished):
                    usage = result.usage
        return usage

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

    def _answer_call(self, request: GenerateRequest, matcher: Matcher | None) -> Call:
        prompt = self._prompt_ids(request)
        request = within_budget(request, len(prompt), self._capabilities.prices)
        return Call(
            prompt=prompt,
            max_tokens=request.max_tokens,
            forced=request.forced,
            reuse=request.reuse,
            namespace=self._namespace(request.tenant),
            owner=request.owner,
            chooser=Chooser(
                request.sampling,
                end_ids=self._runner.end_ids,
                ignore_end=request.ignore_end,
                forced=request.forced,
                logprobs=request.logprobs,
                matcher=matcher,
            ),
        )

    def _prefill_call(self, request: GenerateRequest) -> Call:
        prompt = request.prompt
        has_text = isinstance(prompt, Prompt) and bool(prompt.cue.text)
        prompt = self._prompt_ids(request, cue=has_text)
        return Call(
            prompt=prompt,
            max_tokens=0,
            namespace=self._namespace(request.tenant),
            owner=request.owner,
        )

    def _score_call(
        self,
        request: GenerateRequest,
        continuations: list[tuple[int, ...]],
        sinks: list[ContinuationScore],
    ) -> Call:
        """Score the first of those that are left; a budget has to pay for all of them."""
        prompt, ids = self._prompt_ids(request), continuations[0]
        if request.budget is not None:
            reads = sum(len(prompt) + len(one) - 1 for one in continuations)
            check_budget(reads, request.budget, self._capabilities.prices)
        self._runner.check_ids(ids)
        sinks.append(ContinuationScore(len(prompt), ids, self._runner.model.logits))
        return Call(
            prompt=prompt + ids[:-1],
            max_tokens=0,
            namespace=self._namespace(request.tenant),
            rows=sinks[0],
            reuse_limit=len(prompt) - 1,
        )

    def _prompt_ids(self, request: GenerateRequest, *, cue: bool = True) -> tuple[int, ...]:
        prompt = request.prompt
        if not isinstance(prompt, Prompt):
            return prompt
        self._check_length(sum(len(turn.text) for turn in prompt.turns))
        return self._loaded.encoder.encode(prompt, tenant=request.tenant, cue=cue)

    def _check_texts(self, texts: Continuations[str]) -> None:
        for text in texts:
            self._check_length(len(text))

    def _check_length(self, characters: int) -> None:
        """Refuse what no window holds before it is tokenized, which may take minutes."""
        fewest = characters // self._loaded.vocabulary.longest
        if fewest > self._runner.window:
            raise ContextTooLong(fewest, self._runner.window)

    def _namespace(self, tenant: str) -> bytes:
        tiers = self._runner.tiers
        if tiers is not None:
            return tiers.chain(tenant).namespace
        return blake3(self._runner.fingerprint.digest + tenant.encode()).digest()

    def _matcher(self, request: GenerateRequest) -> Matcher | None:
        """Compile what the answer is kept to."""
        if request.schema is not None:
            return self._loaded.grammars.of_schema(request.schema)
        if not request.must_call:
            return None
        tools = tool_parameters(request.tools)
        once = request.tool_choice in tools
        if once:
            tools = {request.tool_choice: tools[request.tool_choice]}
        special_id = self._loaded.vocabulary.special_id
        grammar = self._loaded.tool_format.grammar(tools, special_id, once=once)
        return self._loaded.grammars.of_text(grammar)


def load_engine(model: str, settings: EngineSettings) -> TorchEngine:
    """Load a model and start its engine. Takes seconds: call it in a thread.

    Raises:
        ModelNotFound, ModelBroken: it cannot be had.
        ConfigError: a setting does not fit this machine.
    """
    # Each thread that computes with several has a team of them, and with more of these than cores
    # OpenMP lets all sleep between operations: decoding took 1.6 times as long. Loading needs none.
    torch.set_num_threads(1)
    return TorchEngine(model, load(model, settings), settings)
