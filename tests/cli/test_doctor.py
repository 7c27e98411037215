from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from agentbus import Bus
from agentbus.cli.doctor import (
    check_broker,
    check_cores,
    check_engines,
    check_files,
    check_folder,
    check_libraries,
    check_memory,
    check_python,
    check_sockets,
)
from agentbus.cli.keys import joining
from agentbus.daemon import start_broker
from agentbus.engine import Examined

pytestmark = pytest.mark.anyio


def test_versions() -> None:
    assert check_python((3, 11)).status == check_python((3, 13)).status == "ok"
    assert check_python((3, 10)).status == check_python((3, 14)).status == "fail"
    (libraries,) = check_libraries()
    assert libraries.status == "ok"
    assert "uvloop" in libraries.found


def test_limits() -> None:
    assert [check_files(limit).status for limit in (256, 1024, -1)] == ["warn", "ok", "ok"]
    assert [check.status for check in check_cores(1, "")] == ["warn", "ok"]
    assert [check.status for check in check_cores(2, "4")] == ["ok", "warn"]
    assert [check.status for check in check_cores(4, "4")] == ["ok", "ok"]


def test_what_engines_compute_with(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Examined("engine", "fast"), Examined("model", "none", "install one")]
    monkeypatch.setattr("agentbus.cli.doctor.examine_engines", lambda: iter(found))
    engine, model = check_engines()
    assert (engine.status, engine.found, engine.advice) == ("ok", "fast", "")
    assert (model.status, model.found, model.advice) == ("warn", "none", "install one")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at a Linux kernel's settings")
def test_the_way_of_large_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    scope = tmp_path / "ptrace_scope"
    assert "straight into" in check_memory(scope).found, "without Yama"
    for said, found in (("0", "straight into"), ("1", "shared memory"), ("3", "shared memory")):
        scope.write_text(said + "\n")
        assert found in check_memory(scope).found


def test_the_folder(socket_dir: Path) -> None:
    folder = socket_dir / "run"
    assert check_folder(folder).status == "ok"
    folder.mkdir(mode=0o700)
    assert check_folder(folder).status == "ok"
    folder.chmod(0o755)
    open_to_others = check_folder(folder)
    assert open_to_others.status == "fail"
    assert str(folder) not in open_to_others.advice, "which may be everybody's"


def test_sockets_that_nobody_listens_at(socket_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_dir / "dead.sock"))
    (socket_dir / "file.sock").touch()
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(socket_dir / "live.sock"))
        live.listen()
        (found,) = check_sockets(socket_dir, socket_dir / "own.sock")
        assert not list(check_sockets(socket_dir, socket_dir / "dead.sock")), "up takes it over"
    assert (found.status, found.advice) == ("warn", f"rm {socket_dir}/dead.sock")


async def test_the_broker(socket_dir: Path) -> None:
    path = f"{socket_dir}/run/bus.sock"
    url = f"unix://{path}"
    assert (await check_broker(url, joining(url, None, None, None))).status == "warn"
    async with Bus.open(listen=path) as home:
        assert (
            await check_broker(url, joining(url, None, None, None))
        ).status == "fail"  # a bus, but no broker
        await start_broker(home)
        answered = await check_broker(url, joining(url, None, None, None))
        assert (answered.status, answered.found[-2:]) == ("ok", "µs")


async def test_a_broker_is_not_to_be_started_for_want_of_keys() -> None:
    url = "ab://127.0.0.1:1"
    found = await check_broker(url, joining(url, None, None, None))
    assert (found.status, found.advice) == ("fail", "")
    assert "agentbus keys new" in found.found
