"""What one hop cost: bytes, times and tokens, collected where the work is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["NO_COST", "HopAccount", "ModelCost"]


@dataclass(frozen=True, slots=True)
class ModelCost:
    """Sum of the model calls that one handler made.

    Times in seconds; `sent_bytes` to the engine, `received_bytes` from it.
    """

    calls: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    prefilled_tokens: int = 0
    decoded_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    ttft_s: float = 0.0
    cost: float = 0.0
    """In the unit of the engines' prices."""
    lost_tokens: int = 0
    """Of those prefilled, about how many stood in the caller's last prompt, too, but in another
    place; `agentbus context lint` says which."""
    saved_tokens: int = 0
    """Those that the prompts would have had more, had filters not made texts shorter."""
    left_out_tokens: int = 0
    """Of those, what lossy filters have left out."""
    filter_s: float = 0.0
    """Spent on filters; a part of `ttft_s`."""
    structured_answers: int = 0
    """Answers that were to hold a value of a type (`Call.generate_as`)."""
    unparsable_answers: int = 0
    """Those of them that held none."""
    repairs: int = 0
    """Those of them that were asked for after one that held none."""

    def __add__(self, other: ModelCost) -> ModelCost:
        pairs = zip(self.pack(), other.pack(), strict=True)
        return ModelCost(*(mine + theirs for mine, theirs in pairs))  # type: ignore[arg-type]

    def pack(self) -> list[int | float]:
        """Return the fields in order, as they travel."""
        return [getattr(self, name) for name in self.__slots__]

    @staticmethod
    def unpack(row: Sequence[object]) -> ModelCost:
        """Read what `pack` wrote.

        Raises:
            ValueError: the row is not one.
        """
        names = ModelCost.__slots__
        if len(row) != len(names):
            raise ValueError("a model cost of another length")
        for name, value in zip(names, row, strict=True):
            if type(value) is not type(getattr(NO_COST, name)) and type(value) is not int:
                raise ValueError(f"{name} is not a number")
            if not 0 <= value < math.inf:  # type: ignore[operator]
                raise ValueError(f"{name} is negative or not finite")
        return ModelCost(*row)  # type: ignore[arg-type]


NO_COST = ModelCost()


@dataclass(slots=True)
class HopAccount:
    """One delivered message and what its handling cost.

    `sent_bytes` counts the request with its context, `received_bytes` what came back for it: parts,
    reply, and questions about the context; both are 0 within a process. `queue_s` is the wait in the
    mailbox, `handle_s` the handler's time, `wall_s` the whole as the caller saw it.
    """

    source: str = ""
    target: str = ""
    transport: str = "inproc"
    sent_bytes: int = 0
    received_bytes: int = 0
    queue_s: float = 0.0
    handle_s: float = 0.0
    wall_s: float = 0.0
    model: ModelCost = NO_COST
