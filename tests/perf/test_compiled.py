from __future__ import annotations

from pathlib import Path

import pytest

from perf.compiled import is_perf, stale


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["python", "-m", "perf", "bus"], True),
        (["python", "-X", "dev", "-m", "perf.micro.agentbus_side", "path"], True),
        (["python", "-m", "perf.profile", "unix"], False),
        (["python", "-m", "pytest", "perf"], False),
        (["python", "-m", "performance"], False),
        (["pytest"], False),
        (["python", "-m"], False),
    ],
)
def test_only_measurements_take_the_compiled_one(argv: list[str], expected: bool) -> None:
    assert is_perf(argv) is expected


def test_a_build_of_other_sources_is_seen(tmp_path: Path) -> None:
    root, built = tmp_path / "root", tmp_path / "built"
    for folder in (root, built):
        (folder / "agentbus").mkdir(parents=True)
        for name in ("one.py", "two.py"):
            (folder / "agentbus" / name).write_text("x = 1\n")
    assert stale(built, root) == []
    (built / "agentbus" / "one.py").write_text("x = 2\n")
    (root / "agentbus" / "three.py").write_text("")
    assert stale(built, root) == ["agentbus/one.py", "agentbus/three.py"]
