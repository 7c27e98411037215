"""What may be compiled: mypyc gets some things wrong, and none of those may be where it works."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def modules() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    found: list[str] = wheel["hooks"]["custom"]["modules"]
    return found


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Yield where a coroutine may be left while an exception is being handled.

    Compiled (mypyc 2.4), it goes on with that exception as the one that all of the thread's code
    sees as handled from then on. `async with` waits in the same way, for its exit.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncWith):
            yield f"line {node.lineno}: async with"
        if isinstance(node, ast.Try):
            for part in (*node.handlers, *node.finalbody):
                for inner in ast.walk(part):
                    if isinstance(inner, ast.Await | ast.Yield | ast.YieldFrom):
                        yield f"line {inner.lineno}: waits while an exception is handled"


@pytest.mark.parametrize("module", modules())
def test_no_coroutine_is_left_while_an_exception_is_handled(module: str) -> None:
    assert list(unsafe(ast.parse((ROOT / module).read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "body",
    [
        "async with lock:\n        pass",
        "try:\n        pass\n    except ValueError:\n        await job()",
        "try:\n        pass\n    finally:\n        await job()",
    ],
)
def test_what_is_wrong_is_found(body: str) -> None:
    assert list(unsafe(ast.parse(f"async def f():\n    {body}\n")))


def test_what_is_right_is_not() -> None:
    body = "try:\n        await job()\n    except ValueError:\n        raise\n    with scope:\n        await job()"
    assert not list(unsafe(ast.parse(f"async def f():\n    {body}\n")))
