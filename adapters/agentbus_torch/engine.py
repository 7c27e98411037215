"""The engine contract over one local model: requests in, streams of text out.

Compute runs in `driver`'s thread, a step of all running requests at a time; everything of a request
that takes time (tokenizing, the forward passes, writing KV back) happens there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
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
from agentbus.engine.tools import tool_parameters
from agentbus.errors import AgentbusError, ContextTooLong
from agentbus.telemetry import Budget

from .choose import Chooser
from .computation import Computation
from .driver import Driver
from .embed import MeanPool
from .grammar import Matcher, is_available
from .in_team import process_team
from .load import Loaded, load
from .score import ContinuationScore
from .sequence import Call

if TYPE_CHECKING:
    from agentbus.transport.kv_feed import KVEventFeed

__all__ = ["TorchEngine", "load_engine"]


class TorchEngine:
    """One model in this process."""

    def __init__(self, name: str, loaded: Loaded, settings: EngineSettings) -> None:
        self._loaded = loaded
        self._runner = loaded.runner
        self._computation = Computation(name, loaded, settings)
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
        make_call = partial(self._answer_call, request, matcher)
        async with aclosing(self._stream(request, make_call)) as results:
            async for result in results:
                yield result

    def tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        """Render a whole prompt by the model's own chat template and tokenize it as one text."""
        return self._loaded.encoder.encode_as_one(prompt)

    def count(self, text: str) -> int:
        """Return how many tokens a text takes, as somebody's data within a turn."""
        return self._loaded.vocabulary.count(text)

    async def prefill(self, prompt: Prompt, *, tenant: str = "", owner: str = "") -> Usage:
        """Compute a prompt's KV ahead of its use, without its cue if that has no text.

        Raises as `generate` does.
        """
        request = GenerateRequest(prompt=prompt, max_tokens=0, tenant=tenant, owner=owner)
        return await self._run(request, partial(self._prefill_call, request))

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
            usage += await self._run(request, make_call)
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
            usage += await self._run(request, make_call)
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

    async def _run(self, request: GenerateRequest, make_call: Callable[[], Call]) -> Usage:
        """Compute what answers nothing."""
        usage = Usage()
        async with aclosing(self._stream(request, make_call)) as results:
            async for result in results:
                if isinstance(result, Finished):
                    usage = result.usage
        return usage

    async def _stream(
        self, request: GenerateRequest, make_call: Callable[[], Call]
    ) -> AsyncGenerator[Piece | Finished, None]:
        job = self._driver.submit(request, make_call)
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
        self._runner.check_ids(ids, "a continuation")
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
    process_team()  # which looks at what others do while the model is loaded
    return TorchEngine(model, load(model, settings), settings)
