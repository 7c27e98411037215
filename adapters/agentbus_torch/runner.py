"""Sequences, advanced step by step: the synchronous heart of the engine.

`scheduler` decides what a step computes; here it is done: KV moved, the model run, tokens chosen. A
step is launched, then read; between the two the next one is launched, where `Steps.runs_ahead`.
Threads, streams and clocks are `driver`'s and `engine`'s business.
"""

from __future__ import annotations

import itertools
import logging
from array import array
from collections.abc import Callable
from collections.abc import Sequence as Tokens

import numpy
import torch
from torch import Tensor

from agentbus.errors import ContextTooLong, KVExhausted, MisuseError
from agentbus.kv import BlockPool, KeyChain, KVFingerprint, Lease, PoolStats, RadixIndex
from agentbus.storage import TieredBlocks

from .ahead import Flight, make_part
from .batch import Batch, make_batch
from .choose import Chooser, Chosen, pick
from .device import Scores, make_steps
from .kv import KVPool, KVShape
from .model import Model
from .scheduler import MAX_SEQUENCES, Parked, Scheduler, Step
from .sequence import Call, Sequence
from .transfer import upload

__all__ = ["Outcomes", "Runner"]

logger = logging.getLogger(__name__)

Rows = list[tuple[Sequence, int]]
Outcomes = list[tuple[Sequence, Chosen | None]]


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
        open_tiers: Callable[[Tensor], TieredBlocks | None],
    ) -> None:
        """Lay out the pool.

        Args:
            kv_tokens: tokens that the pool holds; whole blocks of `block_size` are made of them.
            end_ids: tokens that end an answer.
            fingerprint: of all that shapes its KV but tokens and tenant.
            open_tiers: puts tiers below the pool's tensor, if there are to be any.
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
        self.steps = make_steps(model, self._pool, slots=MAX_SEQUENCES)
        """Computes batches."""
        self._attention = self.steps.attention
        self.tiers = open_tiers(self._pool.blocks)
        """The tiers below the pool; None if there are none."""
        self.prompt_rows = 0
        """Prompt tokens of the last step, if it computed nothing else; else 0."""
        changes = None if self.tiers is None else self.tiers.changes
        self._index = RadixIndex(BlockPool(blocks), block_size, changes=changes)
        self._scheduler = Scheduler(self._index, block_size, chunk_tokens=self.steps.chunk_tokens)
        self._numbers = itertools.count()
        self._to_publish: list[Sequence] = []
        self._flight: Flight | None = None
        """A step that was launched behind the last one that was read."""
        self._end_ids = frozenset(end_ids)

    @property
    def model(self) -> Model:
        """The model."""
        return self._model

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self._end_ids

    @property
    def waiting(self) -> int:
        """Sequences that wait for their turn."""
        return len(self._scheduler.waiting)

    @property
    def running(self) -> int:
        """Sequences that are being computed."""
        return len(self._scheduler.running)

    @property
    def preempted(self) -> int:
        """How often a sequence was put back to wait, for want of memory."""
        return self._scheduler.preempted

    def add(self, call: Call, chain: KeyChain | None = None) -> Sequence:
        """Queue a call.

        Args:
            call: what is to be computed.
            chain: names its blocks in the tiers below the pool, where there are any.

        Raises:
            ContextTooLong: prompt and answer do not fit the window.
            KVExhausted: they do not fit the pool.
            MisuseError: the prompt is empty or holds an unknown id.
        """
        length = len(call.prompt) + call.answer_length
        if length > self.window:
            raise ContextTooLong(length, self.window)
        tokens = self.check_ids(call.prompt)
        if call.forced:
            self.check_ids(call.forced, "forced")
        needed, total = -(-length // self._block_size), self._index.stats().total
        if needed > total:
            raise KVExhausted(needed, total)
        chooser = call.chooser or Chooser(
            end_ids=self._end_ids, ignore_end=call.ignore_end, forced=call.forced
        )
        chooser.begin(call.prompt, self._model.device)
        sequence = Sequence(call, next(self._numbers), tokens, chooser, chain=chain)
        self._scheduler.add(sequence)
        return sequence

    def check_ids(self, ids: Tokens[int], name: str = "a prompt") -> array[int]:
        """Check token ids, and return them packed; `name` is for the error.

        Raises:
            MisuseError: there are none, or one is not of this model's.
        """
        size = self._model.config.vocabulary
        try:
            packed = array("I", ids)  # refuses negative ones
        except (TypeError, ValueError, OverflowError):
            packed = array("I")
        # It takes bytes for packed ones.
        if (
            not packed
            or len(packed) != len(ids)
            or numpy.frombuffer(packed, numpy.uint32).max() >= size
        ):
            raise MisuseError(f"{name} must be one or more token ids from 0 to {size - 1}")
        return packed

    def step(self) -> Outcomes:
        """Compute one step: a token of each sequence that decodes, and a part of some prompts.

        Returns the sequences that got a token, with it, and those that ended, perhaps without.
        Those that ended are to be handed to `finish`.
        """
        with torch.inference_mode():
            self.prompt_rows = 0
            flight, self._flight = self._flight, None
            if flight is not None and (rows := flight.live()):
                return self._compute(rows, flight)
            self._publish()
            step = self._scheduler.plan()
            self._move(step)
            outcomes: Outcomes = [(failed, None) for failed in step.failed]
            outcomes += [(started, None) for started in step.started if started.error]
            rows = [(s, min(count, s.left)) for s, count in step.rows if s.error is None]
            if not any(sequence.decodes for sequence, _ in rows):
                self.prompt_rows = sum(count for _, count in rows)
            if rows:
                outcomes += self._compute(rows)
        return outcomes

    def finish(self, sequence: Sequence) -> None:
        """End a sequence: finished, failed or cancelled.

        What was computed stays reusable, unless the computation broke.
        """
        if sequence in self._to_publish:
            self._to_publish.remove(sequence)
        keep = sequence.shares and sequence.error is None
        with torch.inference_mode():
            if sequence.lease is not None:
                if keep:
                    self._save(sequence)
                if sequence.slot >= 0:
                    self._attention.close(sequence.slot, keep=keep)
        self._scheduler.release(sequence, keep=keep)
        self._settle()

    def close(self) -> None:
        """Let go of the tiers, once nothing runs; what the pool holds goes to disk, if there is one.

        A next start finds it there, what is worth most for sure.
        """
        if self.tiers is None:
            return
        pool = self._index.stats()
        if self.tiers.is_lasting and not pool.locked:
            everything = range(pool.total * self._block_size)
            self._index.release(self._index.begin(b"", everything, reuse=False))
            self.tiers.settle()
        self.tiers.close()

    def stats(self) -> PoolStats:
        """Return the state of the pool."""
        return self._index.stats()

    def check_integrity(self) -> None:
        """Check the index's invariants; `AssertionError` names one that is broken."""
        self._index.check_integrity()

    def _save(self, sequence: Sequence) -> None:
        if sequence.lease is not None:
            blocks, first = sequence.lease.blocks, sequence.saved_blocks
            self._attention.save(sequence.slot, blocks, first, sequence.computed)

    def _publish(self) -> None:
        """Make prompts that were computed reusable while their answers are decoded."""
        due, self._to_publish = self._to_publish, []
        for sequence in due:
            if not self._scheduler.may_publish(sequence):
                continue
            slot = sequence.slot
            self._save(sequence)
            goes_on = self._scheduler.publish(sequence)
            self._settle()
            if goes_on and sequence.lease is not None:
                lease = sequence.lease
                self._attention.reopen(slot, lease.blocks, lease.reused, lease.copies)
                self._pool.own(lease.blocks[sequence.saved_blocks :])
            else:
                self._attention.close(slot, keep=True)

    def _move(self, step: Step) -> None:
        for parked in step.parked:
            self._park(parked)
        self._settle()
        self._pool.own(step.grown)
        for sequence in step.started:
            if (lease := sequence.lease) is not None:
                self._pool.own(lease.blocks[sequence.saved_blocks :])
                try:
                    self._open(sequence, lease)
                except Exception as error:  # noqa: BLE001 - it is told to whose fault it is
                    sequence.error = error

    def _open(self, sequence: Sequence, lease: Lease) -> None:
        """Bring up what lies in lower tiers of a sequence, and what it reuses to its slot."""
        copies = lease.copies
        if self.tiers is not None and sequence.chain is not None and sequence.shares:
            came = self.tiers.admit(sequence.chain, sequence.reusable, lease)
            if came:
                copies = ()
                sequence.resume(came, self._block_size)
        sequence.slot = self._attention.open(lease.blocks, sequence.computed, copies)

    def _settle(self) -> None:
        """Copy down what the index has evicted, before anything is written over it."""
        if self.tiers is not None:
            self.tiers.settle()

    def _park(self, parked: Parked | None) -> None:
        if parked is None:
            return
        if parked.keep:
            self._attention.save(parked.slot, parked.blocks, parked.saved_blocks, parked.computed)
        self._attention.close(parked.slot, keep=parked.keep)

    def _compute(self, rows: Rows, flight: Flight | None = None) -> Outcomes:
        """Run a batch, or read one that is under way, and launch what follows it meanwhile.

        Should it break, run its sequences apart, to find whose fault it is.
        """
        try:
            flight = flight or self._launch(rows)
            follower = self._follow(flight)
            outcomes = self._read(flight, follower)
        except Exception as error:  # noqa: BLE001 - it is told to whose fault it is
            if len(rows) == 1:
                ((sequence, _),) = rows
                sequence.error = error
                return [(sequence, None)]
            logger.warning("a step of %d sequences broke (%s); going on apart", len(rows), error)
            if _is_out_of_memory(error):
                latest = max(rows, key=lambda row: row[0].number)
                self._park(self._scheduler.preempt(latest[0]))
                return self._compute([row for row in rows if row is not latest])
            return [outcome for row in rows for outcome in self._compute([row])]
        self._flight = follower
        return outcomes

    def _follow(self, flight: Flight) -> Flight | None:
        """Launch the step behind one that is under way, if that can be. Its tokens stay there."""
        if not (self.steps.runs_ahead and flight.decodes):
            return None
        step = self._scheduler.follow([sequence for sequence, _ in flight.live()])
        self._move(step)
        if not step.rows:
            return None
        try:
            return self._launch(step.rows, flight)
        except Exception as error:  # noqa: BLE001 - it is planned again, and ends whose fault it is
            logger.warning("a step ahead of %d sequences broke (%s)", len(step.rows), error)
            return None

    def _launch(self, rows: Rows, before: Flight | None = None) -> Flight:
        """Have a batch computed; behind `before`, of the tokens that are picked there."""
        if before is None:
            parts, behind = [make_part(*row) for row in rows], None
        else:
            parts = [before.next_part(sequence) for sequence, _ in rows]
            behind = before.picked.known
        batch = make_batch(parts, self._model.device, behind=behind)
        by_slot = {sequence.slot: sequence for sequence, _ in rows}
        if any(sequence.call.rows is not None for sequence, _ in rows):
            asking, scores = self._hand_out(batch, by_slot)
        else:
            asking = [by_slot[part.slot] for part in batch.parts if part.wanted]
            scores = self.steps.scores(batch)
        choosers = [sequence.chooser for sequence in asking]
        picked = pick(scores.values, choosers, best=scores.best, behind=0 if before is None else 1)
        return Flight(rows, asking, scores.values, picked)

    def _read(self, flight: Flight, follower: Flight | None) -> Outcomes:
        """Take a step's tokens, once they are there."""
        rows = flight.live()
        found, others = flight.read()
        if follower is not None:
            for sequence in others:
                follower.drop(sequence)
        for sequence, count in rows:
            self._advance(sequence, count)
        outcomes: Outcomes = [(sequence, None) for sequence, _ in rows if sequence.reason]
        for sequence, one, scores in found:
            sequence.logits = scores
            outcomes.append((sequence, self._take(sequence, one)))
        return outcomes

    def _hand_out(
        self, batch: Batch, by_slot: dict[int, Sequence]
    ) -> tuple[list[Sequence], Scores]:
        """Give hidden states to who takes them; return who gets a token, and by which scores."""
        hidden = self.steps.hidden(batch)
        asking: list[Sequence] = []
        last: list[int] = []
        row = 0
        for part in batch.parts:
            sequence = by_slot[part.slot]
            rows = hidden[row : row + part.wanted]
            row += part.wanted
            if sequence.call.rows is not None:
                sequence.call.rows.take(part.start, rows)
            elif part.wanted:
                asking.append(sequence)
                last.append(row - 1)
        return asking, Scores.of(self._model, hidden[upload(last, torch.int64, hidden.device)])

    def _advance(self, sequence: Sequence, count: int) -> None:
        was_prompt = not sequence.decodes
        sequence.computed += count
        prompt = len(sequence.call.prompt)
        sequence.reached = max(sequence.reached, min(sequence.computed, prompt))
        if sequence.left == 0 and sequence.call.answer_length == 0:
            sequence.reason = "length"
        awaited = 0 < sequence.awaited <= sequence.computed
        if sequence.shares and was_prompt and (sequence.left == 0 or awaited):
            self._to_publish.append(sequence)

    def _take(self, sequence: Sequence, chosen: Chosen) -> Chosen | None:
        """Give a sequence its next token; an end token is not returned."""
        if chosen.error is not None:
            sequence.error = chosen.error
            return None
        if chosen.ends:
            sequence.reason = "end"
            return None
        sequence.tokens.append(chosen.token)
        if chosen.complete:
            sequence.reason = "end"
        elif sequence.decoded == sequence.call.answer_length:
            sequence.reason = "forced" if sequence.call.forced else "length"
        return chosen


def _is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out; on a CPU torch says so in a `RuntimeError`'s text only."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
