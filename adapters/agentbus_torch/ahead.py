"""Steps under way: launched on the device, and not read yet.

On a device that computes while the host does something else, a step of decoding is launched before
the tokens of the one before it are read (vLLM calls this async scheduling): they go from step to
step on the device. When they are read, some of the next step's rows may turn out to be void, since
their sequences have ended. What such a row writes is never read: its position lies behind all that
`Sequence.computed` counts, and its blocks may pass to others at once, for whatever these write, or
tiers copy, is done in the same stream, behind the row.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

from torch import Tensor

from agentbus.kv import Lease

from .batch import Part
from .choose import Chosen, Picked
from .sequence import Sequence

__all__ = ["Flight", "make_part"]


@dataclass(slots=True)
class Flight:
    """One step under way."""

    rows: Rows[tuple[Sequence, int]]
    """How many rows of which sequence it computes."""
    asking: Rows[Sequence]
    """Which of them get a token, in the order of `picked`."""
    logits: Tensor
    """What the tokens are picked from, [asking, vocabulary]."""
    picked: Picked
    decodes: bool = field(init=False)
    """Whether all rows are decoded tokens, so that another step may follow before it is read."""
    _leases: dict[Sequence, Lease | None] = field(init=False)
    _places: dict[Sequence, int] = field(init=False)

    def __post_init__(self) -> None:
        self.decodes = all(sequence.decodes for sequence, _ in self.rows)
        self._leases = {sequence: sequence.lease for sequence, _ in self.rows}
        self._places = {sequence: place for place, sequence in enumerate(self.asking)}

    def next_part(self, sequence: Sequence) -> Part:
        """Return the row behind a sequence's, of the token that is picked for it."""
        start, place = sequence.computed + 1, self._places[sequence]
        return Part(sequence.slot, _blocks(sequence), start, (place,), 1)

    def drop(self, sequence: Sequence) -> None:
        """Make a sequence's rows void."""
        self._leases.pop(sequence, None)

    def is_live(self, sequence: Sequence) -> bool:
        """Say whether a sequence's rows count: it is not finished, nor was it put back."""
        return sequence.lease is not None and self._leases.get(sequence) is sequence.lease

    def live(self) -> list[tuple[Sequence, int]]:
        """Return the rows that are not void."""
        return [row for row in self.rows if self.is_live(row[0])]

    def read(self) -> tuple[list[tuple[Sequence, Chosen, Tensor]], list[Sequence]]:
        """Wait until it is computed, and let the choosers of those that ask go on.

        Returns the sequences that got a token, with it and the scores [vocabulary] it was picked
        from; and those of which a step that follows has another token than this one.

        Raises:
            RuntimeError: the device, or the model's scores, broke.
        """
        rows = [n for n, sequence in enumerate(self.asking) if self.is_live(sequence)]
        chosen = self.picked.read(rows)
        found = [(self.asking[n], one, self.logits[n]) for n, one in zip(rows, chosen, strict=True)]
        return found, [self.asking[n] for n in self.picked.undecided]


def make_part(sequence: Sequence, count: int) -> Part:
    """Return the next `count` rows of a sequence, of known tokens."""
    start = sequence.computed
    tokens = sequence.tokens[start : start + count]
    wanted = int(count == sequence.left and sequence.call.answer_length > 0)
    if sequence.call.rows is not None:
        wanted = count
    return Part(sequence.slot, _blocks(sequence), start, tokens, wanted)


def _blocks(sequence: Sequence) -> Rows[int]:
    return sequence.lease.blocks if sequence.lease is not None else ()
