"""On whose behalf a request is made."""

from __future__ import annotations

from dataclasses import dataclass

from ..telemetry import Ledger, Loan

__all__ = ["Origin"]


@dataclass(slots=True)
class Origin:
    """On whose behalf a request is made, and what is left of its budget."""

    source: str
    deadline_at: float
    """By the loop's clock."""
    hops_left: int
    trace: bytes
    """Of the request itself: its trace's id and its own span."""
    parent: bytes = b""
    """The trace of the request in whose handling this one is made, or a span from outside."""
    loan: Loan | None = None
    """What the request may spend, at who makes it; None if it has no budget."""
    ledger: Ledger | None = None
    """The same at its handler."""

    def lent(self, loan: Loan) -> Origin:
        """Give the request what it may spend; returns this."""
        self.loan = loan
        self.ledger = Ledger(loan.amount)
        return self
