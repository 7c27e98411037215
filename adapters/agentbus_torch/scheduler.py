"""Which rows of which sequences go into the next step. No tensors, no clock.

Continuous batching with chunked prefill, after Orca and Sarathi-Serve: each step takes one row of
every sequence that decodes, and fills up with rows of prompts, so that neither waits for the other.
Prompts with the least left to compute go first, of equal ones those with the longest cached prefix;
one that was passed over often enough goes before all. A call that needs a prefix which another is
just computing waits for it (single flight). When blocks run out, the sequence that came last is put
back and computed again later (recompute preemption, as in vLLM).
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from agentbus.errors import KVExhausted
from agentbus.kv import RadixIndex

from .sequence import Sequence

__all__ = ["AHEAD_TOKENS", "CHUNK_TOKENS", "MAX_SEQUENCES", "Parked", "Scheduler", "Step"]

MAX_SEQUENCES = 32
"""Most sequences that run at once."""

CHUNK_TOKENS = 256
"""Most prompt tokens in one step, so that neither those that decode nor a cancellation are kept
waiting. Prompts have to be read at some time: a smaller share of a step beside those that decode
would not shorten their answers, but make more steps of the same work."""

REST_SHARE = 1 / 8
"""How much more goes along if it is the rest of a prompt: a step of few rows reads all weights once
more."""

AHEAD_TOKENS = 64
"""Most of them for prompts that nobody waits for yet, while others decode."""

PATIENCE = 8
"""Steps in which others' prompts may go first."""

LOOKAHEAD = 64
"""Waiting sequences that are looked at in one step, in the order of their arrival."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A sequence that was put back to wait: where its KV was, up to position `computed`."""

    slot: int
    blocks: Tokens[int]
    saved_blocks: int
    computed: int
    keep: bool
    """Whether its blocks stay in the index: their KV has to be saved."""


@dataclass(slots=True)
class Step:
    """What to do, in the order of these fields."""

    parked: list[Parked] = field(default_factory=list)
    grown: list[int] = field(default_factory=list)
    """Blocks that got a new owner."""
    started: list[Sequence] = field(default_factory=list)
    """Sequences with new leases."""
    rows: list[tuple[Sequence, int]] = field(default_factory=list)
    """How many rows of which sequence to compute, from `computed` on."""
    failed: list[Sequence] = field(default_factory=list)
    """Sequences for which there will never be room; they are forgotten."""


class Scheduler:
    """The sequences of one engine, over its KV index."""

    def __init__(
        self, index: RadixIndex, block_size: int, *, chunk_tokens: int = CHUNK_TOKENS
    ) -> None:
        self.waiting: list[Sequence] = []
        """In the order of their arrival."""
        self.running: list[Sequence] = []
        self.preempted = 0
        """How often a sequence was put back."""
        self._index = index
        self._block_size = block_size
        self._chunk_tokens = chunk_tokens
        self._version = 0
        self._cached: dict[Sequence, tuple[int, int]] = {}
        self._shared: dict[tuple[int, int], int] = {}

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""
        self.waiting.append(sequence)

    def plan(self) -> Step:
        """Decide on a step. It is empty if, and only if, nothing waits and nothing runs."""
        step = Step()
        for sequence in list(self.running):
            if sequence.decodes and sequence.lease is not None:
                self._grow(sequence, step)
        step.rows = [(sequence, 1) for sequence in self.running if sequence.decodes]
        self._fill(step)
        if self.waiting and not self.running:
            self._start_alone(self._line()[0], step)
        return step

    def follow(self, under_way: Tokens[Sequence]) -> Step:
        """Decide on a step of the sequences that decode in the one under way, for which each has a
        token that nobody knows yet. Those that end with it for sure are left out.

        It has no rows where it has to wait: somebody could start, a choice needs the token, or
        somebody would have to be put back. `plan` decides then, once the tokens are known.
        """
        step = Step()
        may_start = self.waiting and len(self.running) < MAX_SEQUENCES
        if may_start or len(under_way) < len(self.running):
            return step
        lasting = [s for s in under_way if s.decoded + 1 < s.call.answer_length]
        if not all(sequence.chooser.runs_ahead for sequence in lasting):
            return step
        for sequence in lasting:
            if sequence.lease is None:
                return step
            before = len(sequence.lease.blocks)
            try:
                self._index.extend(sequence.lease, len(sequence.tokens) + 1)
            except KVExhausted:
                return step
            step.grown += sequence.lease.blocks[before:]
        step.rows = [(sequence, 1) for sequence in lasting]
        return step

    def may_publish(self, sequence: Sequence) -> bool:
        """Say whether there is room to share what a sequence has computed while it goes on.

        The block in which it stops is then there twice, once for others and once for itself.
        """
        if sequence.lease is None or not sequence.shares:
            return False
        pool, call = self._index.stats(), sequence.call
        whole = self._count_blocks(len(call.prompt) + call.answer_length)
        return pool.total - pool.locked > whole - len(sequence.lease.blocks)

    def publish(self, sequence: Sequence) -> bool:
        """Let others reuse what a running sequence has computed, all of it saved; it goes on.

        Its lease is another one then. Returns whether it still runs: where there is no room for
        another block, it is put back to wait.
        """
        if sequence.lease is None:
            return False
        self._index.commit(sequence.lease, sequence.tokens[: sequence.computed], step=None)
        self._version += 1
        sequence.lease = None
        sequence.awaited = 0
        try:
            self._lease(sequence)
        except KVExhausted:
            self._put_back(sequence)
            return False
        return True

    def release(self, sequence: Sequence, *, keep: bool) -> None:
        """Forget a sequence; with `keep`, what it computed, all of it saved, stays reusable."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        if sequence.lease is not None:
            if keep:
                kept = sequence.tokens[: sequence.computed]
                self._index.commit(sequence.lease, kept, step=sequence.step)
            else:
                self._index.release(sequence.lease)
            sequence.lease = None
            self._version += 1
        self._cached.pop(sequence, None)
        self._shared = {
            pair: shared for pair, shared in self._shared.items() if sequence.number not in pair
        }

    def preempt(self, sequence: Sequence) -> Parked | None:
        """Put a running sequence back to wait. Returns where its KV was."""
        lease = sequence.lease
        if lease is None:
            return None
        keep = sequence.shares
        parked = Parked(sequence.slot, lease.blocks, sequence.saved_blocks, sequence.computed, keep)
        if keep:
            self._index.commit(lease, sequence.tokens[: sequence.computed], step=None)
        else:
            self._index.release(lease)
        sequence.lease = None
        self._version += 1
        self._put_back(sequence)
        return parked

    def _put_back(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        sequence.computed = sequence.saved_blocks = sequence.awaited = 0
        sequence.slot = -1
        self.preempted += 1
        later = (n for n, other in enumerate(self.waiting) if other.number > sequence.number)
        self.waiting.insert(next(later, len(self.waiting)), sequence)

    def _grow(self, sequence: Sequence, step: Step) -> None:
        """Make room for the token that a sequence decodes next, at the expense of later ones."""
        while (lease := sequence.lease) is not None:
            before = len(lease.blocks)
            try:
                self._index.extend(lease, len(sequence.tokens))
            except KVExhausted:
                latest = max(self.running, key=lambda other: other.number)
                if (parked := self.preempt(latest)) is not None:
                    step.parked.append(parked)
                continue
            step.grown += lease.blocks[before:]
            return

    def _fill(self, step: Step) -> None:
        """Give rows of prompts to a step, and start sequences that wait."""
        may_start, budget = True, self._chunk_tokens
        decodes = bool(step.rows)
        for sequence in self._line():
            if decodes and _is_ahead(sequence):
                budget = min(budget, AHEAD_TOKENS)
            if budget > 0 and sequence.lease is None and may_start:
                started = self._start(sequence)
                if started:
                    step.started.append(sequence)
                elif sequence.passed >= PATIENCE and not self._computing(sequence):
                    may_start = False  # what comes free is for this one
            if budget <= 0 or sequence.lease is None:
                sequence.passed += 1
                continue
            count = _next_rows(sequence, budget)
            budget -= count
            sequence.passed = 0
            step.rows.append((sequence, count))

    def _line(self) -> list[Sequence]:
        """Return whose prompt is not computed yet, in the order in which they are served."""
        line = [sequence for sequence in self.running if not sequence.decodes]
        if len(self.running) < MAX_SEQUENCES:
            line += self.waiting[:LOOKAHEAD]
        return sorted(line, key=self._rank) if len(line) > 1 else line

    def _rank(self, sequence: Sequence) -> tuple[bool, bool, int, int, int]:
        if sequence.passed >= PATIENCE:
            return False, False, 0, 0, sequence.number
        there = sequence.computed if sequence.lease is not None else self._reusable(sequence)
        return True, _is_ahead(sequence), len(sequence.tokens) - there, -there, sequence.number

    def _start(self, sequence: Sequence) -> bool:
        if len(self.running) >= MAX_SEQUENCES or self._computing(sequence):
            return False
        if self.running:
            pool = self._index.stats()
            missing = self._count_blocks(len(sequence.tokens))
            missing -= self._reusable(sequence) // self._block_size
            if pool.total - pool.locked - missing < len(self.running):
                return False  # those that run will soon need a block each
        try:
            self._lease(sequence)
        except KVExhausted:
            return False
        self.waiting.remove(sequence)
        self.running.append(sequence)
        return True

    def _lease(self, sequence: Sequence) -> None:
        call = sequence.call
        lease = self._index.begin(
            call.namespace, sequence.reusable, reuse=sequence.shares, owner=call.owner
        )
        try:
            self._index.extend(lease, len(sequence.tokens))
        except KVExhausted:
            self._index.release(lease)
            raise
        sequence.lease = lease
        sequence.resume(lease.reused, self._block_size)

    def _computing(self, sequence: Sequence) -> bool:
        """Return whether another sequence is computing a prefix that this one can reuse."""
        namespace = sequence.call.namespace
        others = [
            other
            for other in self.running
            if other.shares and not other.decodes and other.call.namespace == namespace
        ]
        if not (sequence.shares and others):
            return False
        there = self._reusable(sequence)
        for other in others:
            shared = self._common(sequence, other)
            if shared - there >= self._block_size:
                other.awaited = min(other.awaited, shared) if other.awaited else shared
                return True
        return False

    def _common(self, sequence: Sequence, other: Sequence) -> int:
        """Return how much of a waiting sequence another one's prompt covers."""
        pair = (sequence.number, other.number)
        shared = self._shared.get(pair)
        if shared is None:
            shared = common_length(sequence.tokens, other.tokens)
            self._shared[pair] = shared
        return min(shared, len(sequence.reusable) - 1)

    def _reusable(self, sequence: Sequence) -> int:
        """Return how many tokens of a waiting sequence are cached, as of the last change."""
        if not sequence.shares:
            return 0
        version, length = self._cached.get(sequence, (-1, 0))
        if version != self._version:
            tokens = sequence.reusable
            length = self._index.match_length(sequence.call.namespace, tokens)
            length = min(length, len(tokens) - 1)
            self._cached[sequence] = self._version, length
        return length

    def _count_blocks(self, tokens: int) -> int:
        return -(-tokens // self._block_size)

    def _start_alone(self, sequence: Sequence, step: Step) -> None:
        """Nothing runs, and still there is no room: nobody will make any.

        What is reused takes one block more than the sequence, where it ends within a block. So it
        is tried without.
        """
        sequence.shares = False
        try:
            self._lease(sequence)
        except KVExhausted as error:
            sequence.error = error
            self.release(sequence, keep=False)
            step.failed.append(sequence)
            return
        self.waiting.remove(sequence)
        self.running.append(sequence)
        step.started.append(sequence)
        step.rows.append((sequence, _next_rows(sequence, self._chunk_tokens)))


def _next_rows(sequence: Sequence, budget: int) -> int:
    """Return how many rows of a prompt come into a step with room for `budget` of them."""
    return sequence.left if sequence.left <= (1 + REST_SHARE) * budget else budget


def _is_ahead(sequence: Sequence) -> bool:
    """Say whether nobody waits for what a sequence computes."""
    call = sequence.call
    return call.answer_length == 0 and call.rows is None and not sequence.awaited


def common_length(left: Tokens[int], right: Tokens[int]) -> int:
    """Return how many items two lists have in common at their start."""
    stride, length = 256, min(len(left), len(right))
    start = 0
    while start < length and left[start : start + stride] == right[start : start + stride]:
        start += stride
    while start < length and left[start] == right[start]:
        start += 1
    return min(start, length)
