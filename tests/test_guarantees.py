"""Every promise, and every complaint of others' users, has a test that names it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from .guarantees import COMPLAINTS, PROMISES

TESTS = Path(__file__).parent


def named() -> Iterator[tuple[str, str]]:
    """Return the ids that tests name, each with its test."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for decorator in node.decorator_list:
                    if ast.unparse(decorator).startswith("pytest.mark.promise("):
                        arguments = decorator.args if isinstance(decorator, ast.Call) else []
                        for argument in arguments:
                            yield ast.literal_eval(argument), f"{path.name}::{node.name}"


def test_each_is_proven_and_none_is_unknown() -> None:
    proofs: dict[str, list[str]] = {}
    for name, test in named():
        proofs.setdefault(name, []).append(test)
    known = {*PROMISES, *COMPLAINTS}
    assert known - set(proofs) == set(), "promised without proof"
    assert set(proofs) - known == set(), "proven, but not promised"
