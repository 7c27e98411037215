"""Rules of a settings file: what a model in another process reads, and what that is reported to save."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from agentbus import Bus

from .processes import TIMEOUT, agent, broker, finished, running, worker

pytestmark = pytest.mark.anyio

SETTINGS = """
[[bus.filters]]
senders = ["records"]
readers = ["teller"]
use = ["lossless"]
"""
RECORDS = json.dumps([{"id": f"f-{n}", "city": "Rome", "free": n} for n in range(40)], indent=2)


async def report(url: str, *more: str) -> str:
    status, out, err = await finished("filters", "report", "--bus", url, *more)
    assert (status, err) == (0, "")
    return out


async def test_a_settings_file_says_what_is_filtered(socket_dir: Path, tmp_path: Path) -> None:
    settings = tmp_path / "agentbus.toml"
    settings.write_text(SETTINGS)
    async with broker(socket_dir) as (url, _):
        teller = ["--config", str(settings), "--model", "fake:", agent("teller", "Teller")]
        async with running(worker(url, "--serve", "fake:"), worker(url, *teller)):
            assert await report(url) == "No filter has shortened anything yet.\n"
            async with Bus.open(url) as bus:
                context = bus.context().tool_result("records", RECORDS)
                told = context.tool_result("elsewhere", RECORDS)
                with anyio.fail_after(TIMEOUT):
                    for asked in (context, told):
                        async with bus.stream("teller", 3, context=asked) as parts:
                            async for _ in parts:
                                pass
            found = json.loads(await report(url, "--json"))
            [edge] = found["edges"]
            assert (edge["sender"], edge["receiver"], edge["on"]) == ("records", "teller", True)
            assert edge["filter"].startswith("json-")
            assert edge["deliveries"] == 1
            assert edge["sent"] - edge["delivered"] == edge["saved"] == edge["net"] > 100
            table = await report(url)
            assert "records" in table and "teller" in table
