"""Where recorded data lies, and a word where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

__all__ = ["DATA", "found", "say"]

DATA = Path(__file__).parents[3] / "shared" / "data"
"""Where it is, if it lies beside the checkout."""


def found(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield the files and folders that are there, under their names without endings."""
    for path in (folder / name for name in names):
        if path.exists():
            yield path.name.partition(".")[0], path
        else:
            say(f"skipped {path.name}: {path} is not there; --data names the folder")


def say(word: str) -> None:
    """Say something beside the report."""
    Console(stderr=True, highlight=False).print(word, markup=False)
