"""What a model's server does with filters: contexts are delivered through them, one at a time.

A context that is long, and new, is filtered in a thread, so that the server goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import NamedTuple, TypeVar

import anyio

from ..context import Book, Context, Given, Ledger
from ..engine.base import Engine
from ..errors import MisuseError
from ..filters import (
    Guard,
    Outlook,
    Pipeline,
    Plan,
    Ranker,
    Speed,
    check_plan,
    is_lossless,
    open_lossy,
    tells_of_failure,
)
from ..telemetry import ModelCost

__all__ = ["Delivered", "FilterReceipt", "Filtering", "FindReceipts"]

T = TypeVar("T")

_IN_THREAD = 16_384
"""Characters from which on filtering is done in a thread."""


class FindReceipts(NamedTuple):
    """Say what filters make of the context that comes along, as the asking agent's model reads it."""

    filters: Plan
    salt: str = ""


class FilterReceipt(NamedTuple):
    """What filters made of one segment, when the model was first given it."""

    kind: str
    sender: str
    ref: str
    """Names the original, for `Context.fetch`."""
    filters: str
    """Names of what was applied, with ` + ` between them; empty if the text was left as it is."""
    why: str
    """In plain words."""
    sent_tokens: int
    """Of the original, by the model's tokenizer; 0 where no filter was for such a text."""
    delivered_tokens: int
    """Of what the model was given, marks included."""
    left_out: tuple[tuple[int, int], ...]
    """Lines of the original that it was not given, or not wholly: first and last, from 1."""


class Delivered(NamedTuple):
    """A context as a model reads it."""

    context: Context
    given: Given | None
    """None where no filters were to be applied."""
    filter_s: float

    def receipts(self) -> Iterator[FilterReceipt]:
        """Yield what was made of each segment that a rule fits."""
        for one in self.given.receipts() if self.given else ():
            made, ref = one.decision, f"ctx:{one.digest.hex()[:16]}"
            yield FilterReceipt(
                one.kind.value,
                one.sender,
                ref,
                made.filters,
                made.why,
                made.sent_tokens,
                made.delivered_tokens,
                made.left_out,
            )

    @property
    def cost(self) -> ModelCost:
        """Return what filters have saved of the model call's cost, and cost."""
        if self.given is None:
            return ModelCost()
        return ModelCost(
            saved_tokens=self.given.saved_tokens,
            left_out_tokens=self.given.left_out_tokens,
            ttft_s=self.filter_s,
            filter_s=self.filter_s,
        )


class Filtering:
    """Delivers contexts to one model.

    Args:
        engine: the model's. It also counts in threads.
        book: keeps what was delivered beyond restarts.
        ranker: ranks sentences by a question; BM25 if none is given.
    """

    def __init__(
        self, engine: Engine, book: Book | None = None, ranker: Ranker | None = None
    ) -> None:
        self.guard = Guard(keeps=is_lossless)
        """What filters did on each edge, and which are off."""
        self._pipeline = Pipeline(
            partial(_count, engine),
            Ledger(book=book),
            partial(open_lossy, ranker=ranker),
            self.guard,
            must_stay=tells_of_failure,
        )
        self._pipeline.reuses = engine.capabilities.prefix_reuse
        self._window = engine.capabilities.window
        self._speed = Speed()
        self._book = book
        self._one = anyio.Lock()

    async def deliver(
        self,
        context: Context,
        plan: Plan,
        reader: str,
        salt: str,
        *,
        answer: int = 0,
        ahead: bool = False,
    ) -> Delivered:
        """Return a context as the model is to read it on behalf of `reader`.

        `answer` is how many tokens of the model's window its answer may take. What is read `ahead`
        of a question ends where it depends on that.

        Raises:
            InvalidMessage: the plan is none.
        """
        if not plan:
            return Delivered(context, None, 0.0)
        check_plan(plan)
        begun = perf_counter()
        async with self._one:
            self._pipeline.outlook = Outlook(room=max(0, self._window - answer))
            if ahead:
                context = self._pipeline.settled(context, plan, salt)
            given = await self._aside(
                partial(self._pipeline.deliver, context, plan, reader, salt), context, plan, salt
            )
        return Delivered(given.context, given, perf_counter() - begun)

    async def written_here(
        self, asked: Context, answered: Context, plan: Plan, reader: str, salt: str
    ) -> None:
        """Note that the model has written the end of a context, and that this stays as it is."""
        if plan:
            async with self._one:
                await self._aside(
                    partial(self._pipeline.written_here, asked, plan, reader, answered, salt),
                    asked,
                    plan,
                    salt,
                )

    async def _aside(self, work: Callable[[], T], context: Context, plan: Plan, salt: str) -> T:
        """Do what reads a context, in a thread if that is much."""
        if self._pipeline.pending(context, plan, salt) < _IN_THREAD:
            return work()
        return await anyio.to_thread.run_sync(work)

    def answered(self, cost: ModelCost) -> None:
        """Note what a call of the model took, so that what filters provoke is weighed by that."""
        self._speed.note(cost)
        self._pipeline.watch.costs = self._speed.costs() or self._pipeline.watch.costs

    def close(self) -> None:
        """Keep no deliveries any more."""
        if self._book is not None:
            self._book.close()


def _count(engine: Engine, text: str) -> int:
    """Count the tokens of a text; one that the model's tokenizer cannot read counts its bytes."""
    try:
        return engine.count(text)
    except MisuseError:
        return len(text.encode())
