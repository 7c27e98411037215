"""How a model's layers reach the KV of the sequences in a batch; backends have a file each.

The paged pool (`kv.KVPool`) is what sequences share. A backend may read it in place, or keep what
suits its device better; then it copies: in when a sequence opens, out when it is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from agentbus.kv import Copy

from .batch import Batch

__all__ = ["Attention"]


class Attention(Protocol):
    """Keys and values of running sequences, and attention over them.

    A sequence that runs has a *slot*, a small number. All block lists begin at position 0.
    """

    def open(self, blocks: Sequence[int], length: int, copies: Sequence[Copy]) -> int:
        """Take in a sequence whose blocks hold the KV of its first `length` positions.

        `copies` are the lease's: heads of blocks that still lie in other blocks. Returns its slot.
        """
        ...

    def reopen(self, slot: int, blocks: Sequence[int], length: int, copies: Sequence[Copy]) -> None:
        """Go on with other blocks that hold the KV of the same tokens, `length` of them."""
        ...

    def save(self, slot: int, blocks: Sequence[int], first: int, length: int) -> None:
        """Make the pool hold the sequence's positions up to `length`, from block number `first`."""
        ...

    def close(self, slot: int, *, keep: bool) -> None:
        """Let a sequence go; with `keep`, what was saved of it may serve the next one."""
        ...

    def prepare(self, batch: Batch) -> None:
        """Work out, once for all layers, what a batch will read and write."""
        ...

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Turn the rows' queries and keys to their positions, put keys and values in place, and
        attend to all up to each row's position.

        Args:
            qkv: [rows, heads + 2 * kv_heads, head_size]: queries, keys, values; is overwritten.

        Returns:
            [rows, heads * head_size]
        """
        ...
