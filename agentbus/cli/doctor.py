"""The `doctor` command: what this machine and the bus lack, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import anyio
from rich.console import Console
from rich.text import Text

from ..engine import examine_engines
from ..errors import AgentbusError, ConfigError
from ..routing import BROKER, AgentList, ListAgents
from ..transport import TCP_SCHEME
from .keys import Join
from .runtime import print_json
from .terminal import literal, visible

__all__ = ["Check", "run_doctor"]

DISTRIBUTION = "fm-agentbus"
ROUND_TRIPS = 20
ROUND_TRIP_TIMEOUT = 5.0
"""Seconds for the broker to answer."""
_UNIX = "unix://"
_PYTHONS = ((3, 11), (3, 14))
_MIN_FILES = 1024
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `advice` says what to do, where something is to be done."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


async def run_doctor(url: str, join: Join, *, json: bool) -> bool:
    """Print what was found; returns whether all can work.

    Raises:
        ConfigError: the url is not one.
    """
    check_url(url)
    checks = [
        check_python(sys.version_info[:2]),
        *check_libraries(),
        check_curve(),
        check_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        check_memory(Path("/proc/sys/kernel/yama/ptrace_scope")),
        *check_cores(os.cpu_count() or 1, os.environ.get("OMP_NUM_THREADS", "")),
        *check_engines(),
        *check_place(url),
        await check_broker(url, join),
    ]
    if json:
        print_json([asdict(check) for check in checks])
    else:
        _show(checks)
    return all(check.status != "fail" for check in checks)


def _show(checks: list[Check]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(check.name) for check in checks)
    for check in checks:
        line = Text.assemble(
            (f"{check.status:<5}", _COLOURS[check.status]),
            visible(f"{check.name:<{width}}  {check.found}"),
        )
        console.print(line)
        if check.advice:
            console.print(f"     {'':<{width}}  → {literal(check.advice)}")


def check_python(version: tuple[int, int]) -> Check:
    """Look at Python's version."""
    text = ".".join(map(str, version))
    if _PYTHONS[0] <= version < _PYTHONS[1]:
        return Check("python", "ok", text)
    return Check("python", "fail", text, "agentbus needs Python 3.11 to 3.13")


def check_libraries() -> Iterator[Check]:
    """Look whether what agentbus needs is installed."""
    versions: list[str] = []
    missing: list[str] = []
    for requirement in importlib.metadata.requires(DISTRIBUTION) or []:
        if ";" in requirement:  # an extra's
            continue
        name = requirement.partition(">=")[0].strip()
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if versions:
        yield Check("libraries", "ok", ", ".join(versions))
    if missing:
        yield Check("libraries", "fail", f"missing: {', '.join(missing)}", "pip install -e .")


def check_curve() -> Check:
    """Look whether links to other hosts could be encrypted."""
    from ..transport.zmq_io import require_curve

    try:
        return Check("libzmq", "ok", f"{require_curve()} with CURVE")
    except ConfigError as error:
        return Check("libzmq", "warn", "no CURVE: links to other hosts cannot be", str(error))


def check_files(limit: int) -> Check:
    """Look at how many files and sockets a process may have open; -1 is without limit."""
    if limit == resource.RLIM_INFINITY or limit >= _MIN_FILES:
        return Check("open files", "ok", "no limit" if limit < 0 else f"at most {limit}")
    return Check("open files", "warn", f"at most {limit}", f"ulimit -n {_MIN_FILES} or more")


def check_memory(scope: Path) -> Check:
    """Look which way large payloads take; `scope` is where Yama says who may write to whom."""
    if sys.platform != "linux":
        return Check("large data", "ok", "through sockets: shared memory is for Linux")
    allowed = not scope.is_file() or scope.read_text().strip() == "0"
    if allowed or os.geteuid() == 0:
        return Check("large data", "ok", "straight into the receiver's memory")
    found = "through shared memory: kernel.yama.ptrace_scope keeps processes from each other"
    return Check("large data", "ok", found)


def check_cores(cores: int, threads: str) -> Iterator[Check]:
    """Look at the cores, and at the threads that torch will take."""
    if cores > 1:
        yield Check("cores", "ok", str(cores))
    else:
        advice = "processes that wait for each other share it: set bus.busy_poll = 0"
        yield Check("cores", "warn", "1", advice)
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        yield Check("torch", "warn", "not installed", "pip install -e '.[torch]' for local models")
        return
    if threads.isdigit() and int(threads) > cores:
        found = f"{torch}, OMP_NUM_THREADS={threads} on {cores} cores"
        yield Check("torch", "warn", found, f"set OMP_NUM_THREADS to {cores} or less")
    else:
        yield Check("torch", "ok", f"{torch}, {threads or 'as many threads as cores'}")


def check_engines() -> Iterator[Check]:
    """Look at what local engines would compute with."""
    for one in examine_engines():
        yield Check(one.name, "warn" if one.advice else "ok", one.found, one.advice)


def check_folder(folder: Path) -> Check:
    """Look at who may enter the sockets' folder."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return Check("socket folder", "ok", f"{folder} is made by agentbus up")
    except OSError as error:
        return Check("socket folder", "fail", f"{folder}: {error.strerror}", "name another --bus")
    if status.st_uid != os.getuid():
        return Check("socket folder", "fail", f"{folder} is another user's", "name another --bus")
    if status.st_mode & 0o077:
        found = f"{folder} is open to other users"
        advice = "name a --bus in a folder of your own (chmod 700)"  # this one may be /tmp
        return Check("socket folder", "fail", found, advice)
    return Check("socket folder", "ok", f"{folder} is yours alone")


def check_sockets(folder: Path, own: Path) -> Iterator[Check]:
    """Look for sockets at which nobody listens any more; not for the bus's own, which is taken over."""
    try:
        found = sorted(path for path in folder.glob("*.sock") if path.is_socket() and path != own)
    except OSError:
        return
    for path in found:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.settimeout(1.0)
                probe.connect(str(path))
            except ConnectionRefusedError:
                yield Check("socket", "warn", f"nobody listens at {path}", f"rm {path}")
            except OSError:
                continue


def check_url(url: str) -> None:
    """Raise ConfigError if the url is none of a bus."""
    if url == _UNIX or not url.startswith((_UNIX, TCP_SCHEME)):
        problem = f"{url!r} is not of the form unix:///path/to.sock or ab://host:port"
        raise ConfigError("url", problem)


def check_place(url: str) -> Iterator[Check]:
    """Look at the folder of the sockets, if the bus has one."""
    if url.startswith(_UNIX):
        own = Path(url.removeprefix(_UNIX))
        yield check_folder(own.parent)
        yield from check_sockets(own.parent, own)


async def check_broker(url: str, join: Join) -> Check:
    """Look whether the broker answers, and how fast."""
    if url.startswith(_UNIX) and not await anyio.Path(url.removeprefix(_UNIX)).exists():
        return Check("broker", "warn", f"none at {url}", f"agentbus up --bus {url}")
    try:
        with anyio.fail_after(ROUND_TRIP_TIMEOUT):
            async with join("doctor") as bus:
                times: list[float] = []
                for _ in range(ROUND_TRIPS):
                    began = time.perf_counter()
                    await bus.request(BROKER, ListAgents(), returns=AgentList)
                    times.append(time.perf_counter() - began)
    except TimeoutError:
        problem = f"no answer at {url} within {ROUND_TRIP_TIMEOUT:g} s"
        return Check("broker", "fail", problem, "stop what listens there, then: agentbus up")
    except AgentbusError as error:
        # Others, such as of keys, say themselves what is to be done.
        absent = isinstance(error, ConfigError) and error.setting in ("socket", "url")
        return Check("broker", "fail", str(error), f"agentbus up --bus {url}" if absent else "")
    median = sorted(times)[ROUND_TRIPS // 2]
    return Check("broker", "ok", f"answers at {url} in {median * 1e6:.0f} µs")
