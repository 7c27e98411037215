"""On whose behalf a request is made."""

from __future__ import annotations

from ..telemetry import Ledger, Loan

__all__ = ["Origin"]


class Origin:
    """On whose behalf a request is made, and what is left of its budget."""

    __slots__ = ("deadline_at", "hops_left", "ledger", "loan", "parent", "source", "trace")

    def __init__(
        self, source: str, deadline_at: float, hops_left: int, trace: bytes, parent: bytes = b""
    ) -> None:
        self.source = source
        self.deadline_at = deadline_at
        """By the loop's clock."""
        self.hops_left = hops_left
        self.trace = trace
        """Of the request itself: its trace's id and its own span."""
        self.parent = parent
        """The trace of the request in whose handling this one is made, or a span from outside."""
        self.loan: Loan | None = None
        """What the request may spend, at who makes it; None if it has no budget."""
        self.ledger: Ledger | None = None
        """The same at its handler."""

    def until(self, moment: float) -> Origin:
        """Return one on the same behalf with another deadline, and without a budget."""
        return Origin(self.source, moment, self.hops_left, self.trace, self.parent)

    def lent(self, loan: Loan) -> Origin:
        """Give the request what it may spend; returns this."""
        self.loan = loan
        self.ledger = Ledger(loan.amount)
        return self
