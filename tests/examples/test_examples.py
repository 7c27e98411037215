"""Each example runs alone, is short, uses public names only, and shows what it says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "examples"
PUBLIC = {
    "agentbus",
    "agentbus.config",
    "agentbus.context",
    "agentbus.engine",
    "agentbus.errors",
    "agentbus.testing",
}

SHOWS = {
    "request": r"5 words, the longest: turns \(in \d+ µs\)\nno agent named 'editor' is on this bus",
    "stream": r"(?s)1 of 3\n.*2 of 3\n.*3 of 3\n.*1 of 1000000 is enough\n  the counter ends at \d",
    "chain": r"planner: 0 tokens reused, \d+ new\n"
    r"writer: \d{3,} tokens reused, \d\d? new\n"
    r"editor: \d{3,} tokens reused, \d\d? new\n.+",
    "testing": r"Salt, mostly\.\nsystem: You write about the sea\.\nuser: What is in it\?\n"
    r"handled: What is in it\?\nPeerLost 1",
    "originals": r"(?s).*<tool_call>.*\n90: step 90 failed: disk full\n.*<tool_call>.*"
    r"\[ctx:[0-9a-f]{8} lines 89-91 of 200\]\nstep 89 done\nstep 90 failed: disk full\n"
    r"step 91 done\nIt was full\.",
    "filters": r"plain: 0 of the scripted model's tokens saved\n"
    r"brief: \d{3} of the scripted model's tokens saved\n  private role of brief: as it is\n"
    r"  tool result of search: json-\S+\n  ask of user: as it is\n  message of brief: as it is",
    "publish": r"brest: 4\.2 m\ndover: 6\.1 m\n"
    r"\['sea\.level\.brest', 'sea\.level\.dover', 'sea\.state'\]",
}


def examples() -> list[Path]:
    return sorted(FOLDER.glob("*.py"))


def test_every_example_is_checked() -> None:
    assert {path.stem for path in examples()} == set(SHOWS)


@pytest.mark.parametrize("path", examples(), ids=lambda p: p.stem)
def test_runs_alone_and_shows_something(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(SHOWS[path.stem], done.stdout.strip()), done.stdout


@pytest.mark.parametrize("path", examples(), ids=lambda p: p.stem)
def test_is_short_and_uses_public_names_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentbus"):
            assert node.module in PUBLIC
