"""The commands that look at a bus and ask it, run as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from agentbus import Bus

from .agents import Sum
from .processes import ROOT, TIMEOUT, agent, broker, finished, running, worker

pytestmark = pytest.mark.anyio


async def printed(*arguments: str) -> list[Any]:
    """Run a command with --json; returns what it printed, line by line."""
    status, out, err = await finished(*arguments, "--json")
    assert (status, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


async def test_a_bus_is_asked_and_watched(socket_dir: Path) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        url, _ = await enter(broker(socket_dir))
        at = ("--bus", url)
        [command] = await enter(running(worker(url, agent("adder", "Adder"))))

        [answer] = await printed("call", "adder", '{"numbers": [1, 2]}', *at)
        assert answer["value"] == {"total": 3, "by": "adder"}
        assert answer["account"]["target"] == "adder"
        typed = ("--type", "tests.system.agents:Sum")
        [answer] = await printed("call", "adder", '{"numbers": [4]}', *typed, *at)
        assert answer["value"]["total"] == 4
        parts = await printed("call", "adder", '{"upto": 2}', *at)
        assert parts == [{"part": 0}, {"part": 1}]
        for value, problem in {
            '{"numbers": ["a"]}': "Sum: numbers.0: Input should be a valid integer",
            '{"text": "no"}': "the handler of 'adder' raised ValueError: no",
            '{"q": 1}': "fits nothing that 'adder' handles, which is: Sum {numbers}; ",
            "hello": "'hello' is not JSON",
        }.items():
            status, out, err = await finished("call", "adder", value, *at)
            assert (status, out, err.count("\n")) == (1, "", 1)
            assert problem in err

        [[row]] = await printed("ps", *at)
        assert (row["name"], row["pid"]) == ("adder", command.process.pid)
        assert row["requests"] == 5
        assert row["metrics"].startswith("http://127.0.0.1:")
        [rows] = await printed("top", "--once", *at)
        top = {row["agent"]: row for row in rows}
        assert set(top) == {"$broker", "adder"}
        assert (top["adder"]["requests"], top["adder"]["errors"]) == (5, 2)
        assert top["adder"]["process"] == row["process"]
        [traces] = await printed("trace", *at)
        kept = [trace for trace in traces if trace["error"] == "handler_failed"]
        assert kept and kept[0]["target"] == "adder"
        [spans] = await printed("trace", kept[0]["trace"], *at)
        assert {span["trace"] for span in spans} == {kept[0]["trace"]}
        status, out, _ = await finished("trace", kept[0]["trace"], *at)
        assert (status, "process adder" in out, "handler_failed" in out) == (0, True, True)
        status, _, err = await finished("trace", "no", *at)
        assert (status, "no traces are known whose id begins with 'no'" in err) == (1, True)
        [checks] = await printed("doctor", *at)
        assert {check["status"] for check in checks} <= {"ok", "warn"}


async def test_a_workers_collections_leave_out_what_it_began_with(socket_dir: Path) -> None:
    async with broker(socket_dir) as (url, _), Bus.open(url) as bus:
        async with running(worker(url, agent("collected", "Collected"))):
            assert await bus.request("collected", "", returns=int) > 10_000


async def test_what_is_published_is_printed(socket_dir: Path) -> None:
    async with broker(socket_dir) as (url, _), Bus.open(url) as bus:
        command = [sys.executable, "-m", "agentbus", "tail", "news.*", "--json", "--bus", url]
        process = await anyio.open_process(command, stdin=subprocess.DEVNULL, cwd=ROOT)
        try:
            assert process.stdout is not None
            lines = BufferedByteReceiveStream(process.stdout)
            with anyio.fail_after(TIMEOUT):
                async with anyio.create_task_group() as group:
                    group.start_soon(publish, bus)
                    line = json.loads(await lines.receive_until(b"\n", 65536))
                    group.cancel_scope.cancel()
                process.terminate()
                assert await process.wait() == 128 + 15
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.aclose()
        assert line == {"topic": "news.sums", "value": {"numbers": [1]}, "source": ""}


async def publish(bus: Bus) -> None:
    """Publish until somebody has seen it: who subscribes, and when, is not ours to know."""
    while True:
        await bus.publish("news.sums", Sum(numbers=[1]))
        await bus.agents()
