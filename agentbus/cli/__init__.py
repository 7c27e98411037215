"""The command line: the one place that reads arguments, environment and settings files."""

from .app import main

__all__ = ["main"]
