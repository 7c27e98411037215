"""Names for KV blocks that are the same in every process, and differ wherever the KV would.

A block's key hashes its parent's key, its own token ids and the fingerprint of all else that
shapes KV, under the tenant's key: the block chain of vLLM's prefix caching, with the rest of what
KV depends on in it. Equal keys mean equal KV, so a block may be fetched by its key from host
memory or disk, by another process or after a restart. Only whole blocks have keys.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgpack
from blake3 import blake3

from ..errors import MisuseError
from .tree import TOKEN_BYTES, pack_tokens

__all__ = ["KEY_SIZE", "BlockKey", "KVFingerprint", "KeyChain", "derive_tenant_key"]

KEY_SIZE = 32
"""Bytes of a block's key, of a tenant's key and of a fingerprint's digest."""
_FORM = b"agentbus kv block 1"
"""What is hashed begins with this; another order or choice of fields needs another number."""
_ROOT = bytes(KEY_SIZE)
_TENANTS = "agentbus 2026-11 kv tenant key"
_SALTS = "agentbus 2026-11 kv salt"
_SALT_SIZE = 16
_NAMESPACES = "agentbus 2026-11 kv namespace"


def _require_key(what: str, value: object) -> None:
    if not isinstance(value, bytes) or len(value) != KEY_SIZE:
        raise MisuseError(f"{what} is {KEY_SIZE} bytes")


@dataclass(frozen=True, slots=True)
class BlockKey:
    """The key of one whole block of KV.

    Raises:
        MisuseError: `digest` is not `KEY_SIZE` bytes.
    """

    digest: bytes

    def __post_init__(self) -> None:
        _require_key("a block's key", self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVFingerprint:
    """All that shapes KV apart from the tokens and the tenant.

    Raises:
        MisuseError: a field is not of its type, or the block size is not positive.
    """

    model: str
    """The architecture and its sizes, in one text."""
    weights: bytes
    """A digest of the weights."""
    dtype: str
    """Of keys and values as they are stored."""
    rope: str
    """Theta and scaling of the rotary positions, in one text."""
    tokenizer: bytes
    """A digest of the tokenizer and the chat template."""
    block_size: int
    """Tokens in one block."""
    adapter: str = ""
    """Name and version of a LoRA adapter; empty for none."""
    digest: bytes = field(init=False, repr=False)
    """Names all of the above."""

    def __post_init__(self) -> None:
        texts = (self.model, self.dtype, self.rope, self.adapter)
        digests = (self.weights, self.tokenizer)
        if not all(type(text) is str for text in texts):
            raise MisuseError("model, dtype, rope and adapter of a KV fingerprint are texts")
        if not all(type(value) is bytes and value for value in digests):
            raise MisuseError("weights and tokenizer of a KV fingerprint are digests")
        if type(self.block_size) is not int or self.block_size <= 0:
            raise MisuseError(f"a KV block holds at least one token, not {self.block_size}")
        parts = [*texts, *digests, self.block_size]  # msgpack says where each one ends
        object.__setattr__(self, "digest", blake3(msgpack.packb(parts)).digest())


def derive_tenant_key(secret: bytes, tenant: str) -> bytes:
    """Return the key under which a tenant's blocks are named.

    Args:
        secret: `KEY_SIZE` bytes that the process keeps; who lacks them cannot tell whether a text
            is cached from the keys that are stored or published.
        tenant: its name; empty for a process without tenants.

    Raises:
        MisuseError: the secret is not `KEY_SIZE` bytes.
    """
    _require_key("the secret of the tenants' keys", secret)
    return blake3(secret + tenant.encode(), derive_key_context=_TENANTS).digest()


class KeyChain:
    """Names the blocks of one tenant's sequences under one fingerprint."""

    __slots__ = ("_head", "_tenant", "block_size", "fingerprint", "namespace", "salt")

    def __init__(self, tenant: bytes, fingerprint: KVFingerprint) -> None:
        """Name blocks under `tenant`, a key of `KEY_SIZE` bytes.

        Raises:
            MisuseError: it is of another size.
        """
        _require_key("a tenant's key", tenant)
        self._tenant = tenant
        self._head = _FORM + fingerprint.digest
        self.fingerprint = fingerprint
        self.block_size = fingerprint.block_size
        together = tenant + fingerprint.digest
        self.namespace = blake3(together, derive_key_context=_NAMESPACES).digest()
        """Names tenant and fingerprint together, as `RadixIndex` wants it."""
        self.salt = blake3(tenant, derive_key_context=_SALTS).digest(_SALT_SIZE).hex()
        """Names the tenant where others may read it, as vLLM's `cache_salt` does."""

    def keys(self, tokens: Sequence[int], *, parent: BlockKey | None = None) -> list[BlockKey]:
        """Return the keys of the whole blocks of `tokens`; a rest that fills no block has none.

        Args:
            tokens: ids of 32 bits, from the beginning of the sequence or behind `parent`.
            parent: the block that these follow.

        Raises:
            MisuseError: these are not token ids.
        """
        packed = _little_endian(pack_tokens(tokens))
        size = self.block_size * TOKEN_BYTES
        above = _ROOT if parent is None else parent.digest
        found: list[BlockKey] = []
        for start in range(0, len(packed) - size + 1, size):
            text = self._head + above + packed[start : start + size]
            above = blake3(text, key=self._tenant).digest()
            found.append(BlockKey(above))
        return found


def _little_endian(packed: bytes) -> bytes:
    """Return packed ids in the order of bytes that keys are made of on every machine."""
    if sys.byteorder == "little":
        return packed
    swapped = array("I", packed)
    swapped.byteswap()
    return swapped.tobytes()
