"""A call in token ids, and the sequence that it becomes while it is computed."""

from __future__ import annotations

from collections.abc import MutableSequence
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from agentbus.kv import KeyChain, Lease, Step

if TYPE_CHECKING:
    from torch import Tensor

    from .choose import Chooser

__all__ = ["Call", "RowSink", "Sequence"]


class RowSink(Protocol):
    """Takes hidden states as they are computed."""

    def take(self, start: int, hidden: Tensor) -> None:
        """Take hidden states [rows, hidden] of positions `start…`; again, where they are computed
        again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is to be computed, in token ids."""

    prompt: tuple[int, ...]
    max_tokens: int
    """0 computes the prompt's KV only."""
    forced: tuple[int, ...] = ()
    ignore_end: bool = False
    reuse: bool = True
    namespace: bytes = b""
    owner: str = ""
    """Who makes one call after the other; see `RadixIndex.begin`."""
    chooser: Chooser | None = None
    """How tokens are chosen; None chooses the best, or the forced ones."""
    rows: RowSink | None = None
    """Takes the hidden states of the prompt's tokens."""
    reuse_limit: int | None = None
    """Most prompt tokens whose KV is reused, since `rows` wants the others'."""

    @property
    def answer_length(self) -> int:
        """Most tokens that are decoded."""
        return len(self.forced) or self.max_tokens


@dataclass(slots=True, eq=False)
class Sequence:
    """A call's way through the engine: it waits, runs, may be put back to wait, and ends."""

    call: Call
    number: int
    """Its place in the order of arrival."""
    tokens: MutableSequence[int]
    """The prompt, then what was decoded; packed, since others compare and pack them often."""
    chooser: Chooser
    shares: bool = True
    """Whether it uses and keeps KV of the index: as the call says, unless there is no room to."""
    chain: KeyChain | None = None
    """Names its blocks in the tiers below the pool, where there are any."""
    lease: Lease | None = None
    """Its blocks while it runs."""
    slot: int = -1
    """Where the attention backend keeps it while it runs."""
    computed: int = 0
    """Positions whose KV is there."""
    saved_blocks: int = 0
    """Blocks, from the first on, that hold their KV in the pool."""
    reused: int = 0
    """Prompt tokens whose KV was there when it began."""
    reached: int = 0
    """Prompt tokens that were reused or went through the model, recomputing not counted."""
    passed: int = 0
    """Steps in which others' prompts went first."""
    awaited: int = 0
    """Length of a prefix that another sequence waits for; 0 if none does."""
    logits: Tensor | None = field(default=None, repr=False)
    """Scores [vocabulary] from which the last token was chosen."""
    reason: str = ""
    """Why it is finished; empty while it is not."""
    step: Step = Step.UNKNOWN
    """How it left its owner."""
    error: Exception | None = None
    """Why it failed."""

    def __post_init__(self) -> None:
        self.shares = self.call.reuse
        if not self.call.answer_length:
            self.step = Step.AHEAD

    @property
    def reusable(self) -> Tokens[int]:
        """The tokens whose KV may be reused, and the first one that has to be computed."""
        limit = self.call.reuse_limit
        return self.tokens if limit is None else self.tokens[: limit + 1]

    @property
    def generated(self) -> Tokens[int]:
        """Tokens that were decoded."""
        return list(self.tokens[len(self.call.prompt) :])

    @property
    def decoded(self) -> int:
        """How many these are."""
        return len(self.tokens) - len(self.call.prompt)

    @property
    def prefilled(self) -> int:
        """Prompt tokens that went through the model."""
        return self.reached - self.reused

    @property
    def left(self) -> int:
        """Known tokens whose KV is yet to be computed."""
        return len(self.tokens) - self.computed

    @property
    def decodes(self) -> bool:
        """Whether the next step is one token of the answer, and not a part of a prompt."""
        return self.left == 1 and len(self.tokens) > len(self.call.prompt)

    def resume(self, reused: int, block_size: int) -> None:
        """Go on from so many tokens, whose KV is there."""
        self.computed = reused
        self.saved_blocks = reused // block_size
        of_prompt = min(reused, len(self.call.prompt))
        if of_prompt > self.reached:
            self.reused += of_prompt - self.reached
            self.reached = of_prompt

    @property
    def ended(self) -> bool:
        """Whether nothing more will be computed."""
        return bool(self.reason) or self.error is not None
