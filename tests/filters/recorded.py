"""What real tools and agents said, from `shared/data`, which lies beside the checkout and is not ours
to ship."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data"


def tool_outputs(*kinds: str) -> Iterator[tuple[str, str]]:
    """Yield names and texts of the files of some kinds, or of all; skip a test without the data."""
    folder = _there(DATA / "tool_outputs")
    for path in sorted(folder.glob("*/*")):
        if not kinds or path.parent.name in kinds:
            yield f"{path.parent.name}/{path.name}", path.read_bytes().decode()


def conversations() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Yield names of conversations, and their messages; skip a test without the data."""
    for path in sorted(_there(DATA / "conversations").glob("*.jsonl*")):
        raw = path.read_bytes()
        lines = gzip.decompress(raw) if path.suffix == ".gz" else raw
        for line in lines.decode().split("\n"):
            if line:
                conversation = json.loads(line)
                yield f"{path.name} {conversation['id']}", conversation["messages"]


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: it holds the recorded texts")
    return folder
