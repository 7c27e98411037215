"""Sequences, advanced step by step: the synchronous heart of the engine.

A step computes one chunk of a prompt or decodes one token. One sequence has the KV window at a
time; who goes next, threads, streams and clocks are `driver`'s and `engine`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

import torch
from torch import Tensor

from agentbus.errors import ContextTooLong, KVExhausted, MisuseError
from agentbus.kv import BlockPool, KeyChain, KVFingerprint, Lease, PoolStats, RadixIndex
from agentbus.storage import TieredBlocks

from .kv import KVPool, KVShape, KVWindow
from .model import Model

__all__ = ["CHUNK_TOKENS", "Call", "Runner", "Sequence"]

CHUNK_TOKENS = 256
"""Most prompt tokens computed in one step, so that a cancellation is not kept waiting."""


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

    @property
    def answer_length(self) -> int:
        """Most tokens that are decoded."""
        return len(self.forced) or self.max_tokens


@dataclass(slots=True)
class Sequence:
    """A running call."""

    call: Call
    lease: Lease
    reused: int
    """Prompt tokens whose KV was there, or was brought there from a lower tier."""
    computed: int
    """Positions whose KV is in the window."""
    prefilled: int = 0
    """Prompt tokens that went through the model."""
    generated: list[int] = field(default_factory=list)
    logits: Tensor | None = None
    """Scores [vocabulary] from which the last token was chosen."""
    reason: str = ""
    """Why it is finished; empty while it is not."""


class Runner:
    """One model, its KV pool and index. Not thread-safe."""

    def __init__(
        self,
        model: Model,
        *,
        kv_tokens: int,
        block_size: int,
        end_ids: Tokens[int],
        fingerprint: KVFingerprint,
        open_tiers: Callable[[Tokens[Tensor]], TieredBlocks | None],
    ) -> None:
        """Lay out the pool.

        Args:
            kv_tokens: tokens that the pool holds; whole blocks of `block_size` are made of them.
            end_ids: tokens that end an answer.
            fingerprint: of all that shapes its KV but tokens and tenant.
            open_tiers: puts tiers below the pool's tensors, if there are to be any.
        """
        config = model.config
        shape = KVShape(config.layers, config.kv_heads, config.head_size, block_size)
        blocks = max(1, kv_tokens // block_size)
        self.fingerprint = fingerprint
        """Of all that shapes its KV but tokens and tenant."""
        self.window = config.window
        """Most tokens of one sequence, prompt and answer."""
        self._model = model
        self._block_size = block_size
        self._pool = KVPool(shape, blocks, dtype=model.dtype, device=model.device)
        self._view = KVWindow(self._pool, model.positions)
        self._blocks = BlockPool(blocks)
        self.tiers = open_tiers(self._pool.layers)
        """The tiers below the pool; None if there are none."""
        changes = None if self.tiers is None else self.tiers.changes
        self._index = RadixIndex(self._blocks, block_size, changes=changes)
        self._end_ids = frozenset(end_ids)
        self._end_index = torch.tensor(sorted(self._end_ids), dtype=torch.int64).to(model.device)
        self._running: Sequence | None = None

    def begin(self, call: Call, chain: KeyChain | None = None) -> Sequence:
        """Start a sequence.

        Args:
            call: what is to be computed.
            chain: names its blocks in the tiers below the pool, where there are any.

        Raises:
            ContextTooLong: prompt and answer do not fit the window.
            KVExhausted: they do not fit the pool.
            MisuseError: the prompt is empty or holds an unknown id, or another sequence runs.
        """
        if self._running is not None:
            raise MisuseError("another sequence is running")
        self._check(call)
        lease = self._index.begin(call.namespace, call.prompt, reuse=call.reuse)
        whole = lease.reused // self._block_size
        self._pool.own(lease.blocks[whole:])
        try:
            reused = self._admit(call, chain, lease)
        except BaseException:
            self._index.release(lease)
            raise
        if reused:
            sources = lease.blocks[: reused // self._block_size]
        else:
            reused = lease.reused
            sources = lease.blocks[:whole] + [copy.source for copy in lease.copies]
        self._view.load(sources)
        self._running = Sequence(call, lease, reused, reused)
        return self._running

    def step(self, sequence: Sequence) -> int | None:
        """Compute one chunk of the prompt, or one token; return the token chosen, if one was.

        A finished sequence has a `reason`; an end token that was chosen is not returned.
        """
        call = sequence.call
        prompt = call.prompt
        with torch.inference_mode():
            if sequence.computed < len(prompt):
                chunk = prompt[sequence.computed : sequence.computed + CHUNK_TOKENS]
                hidden = self._forward(sequence, chunk)
                sequence.prefilled += len(chunk)
                if sequence.computed < len(prompt):
                    return None
                if call.answer_length == 0:
                    sequence.reason = "length"
                    return None
            else:
                self._grow(sequence)
                hidden = self._forward(sequence, sequence.generated[-1:])
            sequence.logits = self._model.logits(hidden)
            return self._choose(sequence, sequence.logits)

    def finish(self, sequence: Sequence) -> None:
        """End a sequence, finished or cancelled; what was computed stays reusable."""
        self._running = None
        if not sequence.call.reuse:
            self._view.forget()
            self._index.release(sequence.lease)
            return
        first = sequence.reused // self._block_size
        self._view.store(sequence.lease.blocks, first, sequence.computed)
        known = (*sequence.call.prompt, *sequence.generated)
        self._index.commit(sequence.lease, known[: sequence.computed])
        self._settle()

    def abandon(self, sequence: Sequence) -> None:
        """End a sequence whose computation broke; nothing that it computed is kept."""
        self._running = None
        self._view.forget()
        self._index.release(sequence.lease)

    def stats(self) -> PoolStats:
        """Return the state of the pool."""
        return self._index.stats()

    def check_integrity(self) -> None:
        """Check the index's invariants; `AssertionError` names one that is broken."""
        self._index.check_integrity()

    def _check(self, call: Call) -> None:
        length = len(call.prompt) + call.answer_length
        if length > self.window:
            raise ContextTooLong(length, self.window)
        size = self._model.config.vocabulary
        ids = (*call.prompt, *call.forced)
        if not call.prompt or min(ids) < 0 or max(ids) >= size:
            raise MisuseError(f"a prompt is one or more token ids from 0 to {size - 1}")
        needed = -(-length // self._block_size)
        if needed > self._blocks.available:  # an answer that begins can then also end
            raise KVExhausted(needed, self._blocks.available)

    def _grow(self, sequence: Sequence) -> None:
        blocks = sequence.lease.blocks
        before = len(blocks)
        self._index.extend(sequence.lease, sequence.computed + 1)
        self._settle()
        self._pool.own(blocks[before:])

    def _admit(self, call: Call, chain: KeyChain | None, lease: Lease) -> int:
        """Bring up what lies in lower tiers of a prompt; return how many tokens are there then."""
        if self.tiers is None or chain is None or not call.reuse:
            self._settle()
            return 0
        return self.tiers.admit(chain, call.prompt, lease)

    def _settle(self) -> None:
        """Copy down what the index has just evicted, before anything is written over it."""
        if self.tiers is not None:
            self.tiers.settle()

    def _forward(self, sequence: Sequence, tokens: Tokens[int]) -> Tensor:
        rows = torch.tensor(tokens, dtype=torch.int64, device=self._model.device)
        hidden = self._model.forward(rows, sequence.computed, self._view)
        sequence.computed += len(tokens)
        return hidden

    def _choose(self, sequence: Sequence, logits: Tensor) -> int | None:
        call = sequence.call
        if call.forced:
            token = call.forced[len(sequence.generated)]
        else:
            if call.ignore_end:
                logits = logits.index_fill(0, self._end_index, -torch.inf)
            token = int(logits.argmax())
            if token in self._end_ids and not call.ignore_end:
                sequence.reason = "end"
                return None
        sequence.generated.append(token)
        if len(sequence.generated) == call.answer_length:
            sequence.reason = "forced" if call.forced else "length"
        return token
