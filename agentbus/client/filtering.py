"""What a model's server does with filters: contexts are delivered through them, one at a time.

A context that is long, and new, is filtered in a thread, so that the server goes on.
"""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import anyio

from ..context import Context
from ..engine.base import Engine
from ..filters import (
    Book,
    Given,
    Guard,
    Ledger,
    Outlook,
    Pipeline,
    Plan,
    Speed,
    check_plan,
    open_lossy,
)
from ..telemetry import ModelCost

__all__ = ["Delivered", "Filtering"]

_IN_THREAD = 16_384
"""Characters from which on filtering is done in a thread."""


class Delivered(NamedTuple):
    """A context as a model reads it."""

    context: Context
    given: Given | None
    """None where no filters were to be applied."""
    filter_s: float

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
    """

    def __init__(self, engine: Engine, book: Book | None = None) -> None:
        self.guard = Guard()
        """What filters did on each edge, and which are off."""
        self._pipeline = Pipeline(engine.count, Ledger(book=book), open_lossy, self.guard)
        self._pipeline.reuses = engine.capabilities.prefix_reuse
        self._window = engine.capabilities.window
        self._speed = Speed()
        self._book = book
        self._one = anyio.Lock()

    async def deliver(
        self, context: Context, plan: Plan, reader: str, answer: int = 0
    ) -> Delivered:
        """Return a context as the model is to read it on behalf of `reader`.

        `answer` is how many tokens of the model's window its answer may take.

        Raises:
            InvalidMessage: the plan is none.
        """
        if not plan:
            return Delivered(context, None, 0.0)
        check_plan(plan)
        begun = perf_counter()
        async with self._one:
            self._pipeline.outlook = Outlook(room=max(0, self._window - answer))
            if self._pipeline.pending(context, plan) < _IN_THREAD:
                given = self._pipeline.deliver(context, plan, reader)
            else:
                given = await anyio.to_thread.run_sync(
                    self._pipeline.deliver, context, plan, reader
                )
        return Delivered(given.context, given, perf_counter() - begun)

    async def written_here(
        self, asked: Context, answered: Context, plan: Plan, reader: str
    ) -> None:
        """Note that the model has written the end of a context, and that this stays as it is."""
        if plan:
            async with self._one:
                self._pipeline.written_here(asked, answered, plan, reader)

    def answered(self, cost: ModelCost) -> None:
        """Note what a call of the model took, so that what filters provoke is weighed by that."""
        self._speed.note(cost)
        self._pipeline.watch.costs = self._speed.costs() or self._pipeline.watch.costs

    def close(self) -> None:
        """Keep no deliveries any more."""
        if self._book is not None:
            self._book.close()
