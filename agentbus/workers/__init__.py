"""Worker processes: agents and engines that a process brings onto a bus."""

from .load import Target, load_agent, parse_target
from .run import run_worker

__all__ = ["Target", "load_agent", "parse_target", "run_worker"]
