"""How an engine runs a model, and what its tokens cost."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from ..errors import ConfigError
from .checks import STRICT

__all__ = [
    "EngineSettings",
    "Prices",
]

_DEVICE = re.compile(r"cpu|cuda(:(0|[1-9]\d?))?")
_MAX_THREADS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What 1000 tokens cost, in a unit of your choice: of a prompt, of what of it is reused, and of
    an answer."""

    __pydantic_config__ = STRICT

    prompt: float = 0.0
    reused: float = 0.0
    answer: float = 0.0

    def __post_init__(self) -> None:
        for name in ("prompt", "reused", "answer"):
            if not 0 <= getattr(self, name) < math.inf:
                problem = f"must be 0 or more and finite, not {getattr(self, name)}"
                raise ConfigError(f"prices.{name}", problem)

    def cost(self, prefilled: int, reused: int, decoded: int) -> float:
        """Return what a model call costs that computed, reused and decoded so many tokens."""
        return (prefilled * self.prompt + reused * self.reused + decoded * self.answer) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How an engine runs one model."""

    __pydantic_config__ = STRICT

    dtype: str = "auto"
    """`float32`, `bfloat16`, or `auto`: bfloat16 where the device multiplies it itself, else float32."""
    device: str = "cpu"
    """`cpu`, `cuda`, or one GPU of several: `cuda:0`, `cuda:1` and so on."""
    threads: int = 0
    """CPU threads; 0 takes as many as there are cores."""
    kv_tokens: int = 32768
    """Tokens that the KV pool holds."""
    block_size: int = 16
    """Tokens in one KV block."""
    queue: int = 256
    """Requests that wait; more are refused."""
    kv_host_bytes: int = 0
    """Host memory for KV blocks that the pool evicts; 0 for none."""
    kv_disk_bytes: int = 0
    """Disk for KV blocks that host memory has no more room for; 0 for none."""
    kv_dir: str = ""
    """The folder of these, one for each engine; it keeps blocks for the next start."""
    cache_dir: str = ""
    """Where converted weights are kept; empty for the user's cache folder."""
    kv_events: str = ""
    """Where to publish which KV blocks are stored and removed: `ipc://path`, or
    `tcp://127.0.0.1:port`; empty for nowhere."""
    kv_events_replay: str = ""
    """Where to tell it again to those who missed some; goes with `kv_events`."""
    token_log: str = ""
    """A file that gets one JSON line a request with its token ids; empty for none."""
    deliveries: str = ""
    """A file that keeps what filters made of texts for this model, so that its prompts are the same
    after a restart; empty for memory alone."""
    ranker: str = ""
    """What the filter `extract` ranks sentences by: `minilm` (extra `filters`), or empty for their
    words alone (BM25)."""
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        if self.dtype not in {"auto", "float32", "bfloat16"}:
            problem = f"must be auto, float32 or bfloat16, not {self.dtype!r}"
            raise ConfigError("dtype", problem)
        if not _DEVICE.fullmatch(str(self.device)):
            raise ConfigError("device", f"must be cpu, cuda or cuda:0, not {self.device!r:.40}")
        self._check_types()
        if not 0 <= self.threads <= _MAX_THREADS:
            problem = f"must be between 0 and {_MAX_THREADS}, not {self.threads}"
            raise ConfigError("threads", problem)
        for name in ("kv_tokens", "block_size", "queue"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, f"must be greater than 0, not {getattr(self, name)}")
        self._check_tiers()
        if self.kv_tokens < self.block_size:
            problem = f"must hold a block of {self.block_size} tokens, not {self.kv_tokens}"
            raise ConfigError("kv_tokens", problem)

    def _check_types(self) -> None:
        """Check what code may say otherwise; a file's types are checked where it is read."""
        for name in ("threads", "kv_tokens", "block_size", "queue"):
            if type(getattr(self, name)) is not int:
                problem = f"must be a whole number, not {getattr(self, name)!r:.40}"
                raise ConfigError(name, problem)
        if not isinstance(self.prices, Prices):
            raise ConfigError("prices", f"must be Prices(…), not {self.prices!r:.40}")

    def _check_tiers(self) -> None:
        for name in ("kv_host_bytes", "kv_disk_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(name, f"must be 0 or more, not {getattr(self, name)}")
        if bool(self.kv_events) != bool(self.kv_events_replay):
            problem = "and kv_events_replay go together: readers that miss some ask again"
            raise ConfigError("kv_events", problem)
        if self.kv_disk_bytes and not self.kv_dir:
            raise ConfigError("kv_dir", "is needed to keep KV blocks on disk")
