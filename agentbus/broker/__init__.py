"""The broker's rules, as a pure core. `agentbus.daemon` puts them on a bus."""

from .core import Directory

__all__ = ["Directory"]
