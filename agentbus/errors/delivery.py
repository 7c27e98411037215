"""How a request ended without a reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import AgentbusError

__all__ = [
    "AnswersInParts",
    "BudgetExceeded",
    "DeadlineExceeded",
    "DeliveryError",
    "Draining",
    "GrantRefused",
    "HandlerFailed",
    "HopsExhausted",
    "LinkFull",
    "MailboxFull",
    "NoHandler",
    "NoResponder",
    "PeerLost",
    "QuorumMissed",
    "RequestCancelled",
]


class DeliveryError(AgentbusError):
    """A request ended without a reply."""


@dataclass(eq=False)
class NoResponder(DeliveryError):
    """No agent of that name is on the bus."""

    code: ClassVar[str] = "no_responder"
    target: str

    def __str__(self) -> str:
        return f"no agent named {self.target!r} is on this bus"


@dataclass(eq=False)
class NoHandler(DeliveryError):
    """The agent exists but has no handler for this type of message."""

    code: ClassVar[str] = "no_handler"
    target: str
    type_name: str
    handled: str
    """The names of the types that it has handlers for, with commas between them."""

    def __str__(self) -> str:
        unfit = f"agent {self.target!r} has no handler for {self.type_name}"
        return f"{unfit}; it handles {self.handled}"


@dataclass(eq=False)
class PeerLost(DeliveryError):
    """The process that had the request went away before it answered."""

    code: ClassVar[str] = "peer_lost"
    peer: str

    def __str__(self) -> str:
        return f"the process {self.peer!r} went away before it answered"


@dataclass(eq=False)
class Draining(DeliveryError):
    """The agent's process is ending and takes no new requests; it did not begin with this one."""

    code: ClassVar[str] = "draining"
    target: str

    def __str__(self) -> str:
        return f"the process of {self.target!r} is ending; ask again, or ask another agent"


@dataclass(eq=False)
class GrantRefused(DeliveryError):
    """The agent's process has no grant of the broker's for this; it did not begin with it."""

    code: ClassVar[str] = "grant_refused"
    target: str
    problem: str

    def __str__(self) -> str:
        return f"the process of {self.target!r} does not take this: {self.problem}"


@dataclass(eq=False)
class DeadlineExceeded(DeliveryError):
    """The deadline passed before the reply came."""

    code: ClassVar[str] = "deadline_exceeded"
    target: str

    def __str__(self) -> str:
        return f"{self.target!r} did not answer before the deadline"


@dataclass(eq=False)
class RequestCancelled(DeliveryError):
    """The callee, or the process that runs it, cancelled the request."""

    code: ClassVar[str] = "cancelled"
    target: str

    def __str__(self) -> str:
        return f"the request to {self.target!r} was cancelled"


@dataclass(eq=False)
class MailboxFull(DeliveryError):
    """The agent's mailbox is full; the message was refused, not dropped silently."""

    code: ClassVar[str] = "mailbox_full"
    target: str
    limit: int

    def __str__(self) -> str:
        return f"the mailbox of {self.target!r} is full ({self.limit} messages)"


@dataclass(eq=False)
class LinkFull(DeliveryError):
    """The peer reads so slowly that the link's write buffer is full; nothing was sent."""

    code: ClassVar[str] = "link_full"
    peer: str
    limit: int

    def __str__(self) -> str:
        return f"the process {self.peer!r} does not read: over {self.limit} bytes wait for it"


@dataclass(eq=False)
class StreamOverflow(DeliveryError):
    """One of several readers of a stream fell so far behind the quickest that it lost parts."""

    code: ClassVar[str] = "stream_overflow"
    limit: int

    def __str__(self) -> str:
        return f"this reader of the stream fell more than {self.limit} parts behind another one"


@dataclass(eq=False)
class AnswersInParts(DeliveryError):
    """The handler streams its answer, and the caller asked for a value."""

    code: ClassVar[str] = "answers_in_parts"
    target: str
    type_name: str

    def __str__(self) -> str:
        return (
            f"agent {self.target!r} answers {self.type_name} in parts: read them with "
            "'async with bus.stream(…) as parts'"
        )


@dataclass(eq=False)
class QuorumMissed(DeliveryError):
    """So many of those asked together failed that too few can answer."""

    code: ClassVar[str] = "quorum_missed"
    wanted: int
    answered: int
    asked: int

    def __post_init__(self) -> None:
        self.outcomes: tuple[object, ...] = ()
        """What each question came to: a reply or an error. It does not travel between processes."""

    def __str__(self) -> str:
        return f"{self.answered} of {self.asked} answered, {self.wanted} were wanted"


@dataclass(eq=False)
class HopsExhausted(DeliveryError):
    """The request was caused by so many others in a row that it was not sent."""

    code: ClassVar[str] = "hops_exhausted"
    target: str

    def __str__(self) -> str:
        return (
            f"the request to {self.target!r} is over the limit of hops; do agents call in a circle?"
        )


@dataclass(eq=False)
class BudgetExceeded(DeliveryError):
    """A model call would spend more than the request's budget has left; it was not begun.

    `what` is `tokens` or `cost`; costs are in billionths of their unit. `spent` includes what is
    lent to other requests that are under way.
    """

    code: ClassVar[str] = "budget_exceeded"
    what: str
    allowed: int
    spent: int
    asked: int

    def __str__(self) -> str:
        unit = 1 if self.what == "tokens" else 10**9
        amounts = (self.allowed, self.spent, self.asked)
        allowed, spent, asked = (f"{amount / unit:.12g}" for amount in amounts)
        return (
            f"the budget of {allowed} ({self.what}) does not suffice: {spent} is spent, or lent to "
            f"others, and {asked} or more is asked for"
        )


@dataclass(eq=False)
class HandlerFailed(DeliveryError):
    """The handler raised an exception that is not one of agentbus's own."""

    code: ClassVar[str] = "handler_failed"
    target: str
    error_type: str
    text: str

    def __str__(self) -> str:
        return f"the handler of {self.target!r} raised {self.error_type}: {self.text}"
