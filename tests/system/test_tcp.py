"""The commands over tcp, with key files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .processes import agent, finished, running, worker

pytestmark = pytest.mark.anyio


async def test_a_worker_joins_a_broker_over_tcp(tmp_path: Path) -> None:
    for name, folder in (("broker", tmp_path), ("ann", tmp_path / "users")):
        status, _, errors = await finished("keys", "new", name, "--folder", str(folder))
        assert status == 0, errors
    up = ["up", "--bus", "ab://127.0.0.1:0", "--keys", str(tmp_path / "broker.key_secret")]
    async with running([*up, "--authorized", str(tmp_path / "users")]) as [broker]:
        url = broker.ready
        assert url.startswith("ab://127.0.0.1:")
        ann = ["--keys", str(tmp_path / "users" / "ann.key_secret")]
        ann += ["--server-key", str(tmp_path / "broker.key")]
        async with running(worker(url, agent("adder", "Adder"), *ann)):
            status, output, errors = await finished("ps", "--bus", url, *ann, "--json")
            assert status == 0, errors
            assert [found["name"] for found in json.loads(output)] == ["adder"]
        await broker.terminate()
