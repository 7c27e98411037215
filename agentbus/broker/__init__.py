"""The broker's rules, as a pure core. `agentbus.daemon` puts them on a bus."""

from .access import Access, asking
from .core import Directory

__all__ = ["Access", "Directory", "asking"]
