"""Links over Unix stream sockets, between processes of one user on one host.

Owns the socket's file: its directory is the user's alone, a file left by a dead process is
replaced, and none is left behind. Both sides check that the other runs as the same user.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from ..config import Limits
from ..errors import AgentbusError, Closed, ConfigError, PeerLost
from ..wire import Hello
from .base import Link, LinkOwner, Listener
from .lasting import LastingLink, Tickets
from .unix_link import UnixDialer, UnixLink

__all__ = ["HELLO_TIMEOUT", "connect_unix", "listen_unix", "remove_stale"]

HELLO_TIMEOUT = 5.0
"""Seconds in which whoever connects must say HELLO."""
_LOCK_TIMEOUT = 5.0
_LOCK_RETRY = 0.01
_BACKLOG = 128
_MAX_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of `sun_path`, less the final zero."""


async def connect_unix(
    path: str, owner: LinkOwner, hello: Hello, limits: Limits, *, timeout: float
) -> Link:
    """Connect to the process that listens at `path` and return the link once it is open.

    Args:
        path: the socket's file.
        owner: is told of the link, `link_opened` first, before this returns.
        hello: what this process says about itself.
        limits: bounds on both directions.
        timeout: seconds until both sides said HELLO and what memory they share.

    Raises:
        ConfigError: nothing listens there, or it is not for this user.
        PeerLost: what listens there went away or did not answer in time.
        ProtocolError: what listens there does not speak this protocol, or another version.
    """
    _check_path(path)
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[AgentbusError | None] = loop.create_future()

    def settled(error: AgentbusError | None) -> None:
        if not outcome.done():
            outcome.set_result(error)

    dialer = UnixDialer(path)
    link = UnixLink(owner, hello, limits, settled, dialer=dialer)
    try:
        async with asyncio.timeout(timeout):
            await dialer.connect(link)
            error = await outcome
            await link.memory_settled()  # what is sent first may be large
    except TimeoutError as late:
        link.abort()
        raise PeerLost(path) from late
    except OSError as failure:
        raise _connect_error(path, failure) from failure
    except BaseException:
        link.drop()
        # A connection that was cancelled while it was made is closed without a word to its owner.
        link.connection_lost(None)
        raise
    if isinstance(error, PeerLost | Closed):
        raise PeerLost(path) from error
    if error is not None:
        raise error
    return link


def _connect_error(path: str, error: OSError) -> AgentbusError:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return ConfigError("socket", f"nothing listens at {path}; is the bus started?")
        case ConnectionRefusedError():
            return ConfigError("socket", f"the process that listened at {path} is gone")
        case PermissionError():
            return ConfigError("socket", f"{path} belongs to another user")
        case _:
            return PeerLost(path)


async def listen_unix(path: str, owner: LinkOwner, hello: Hello, limits: Limits) -> Listener:
    """Accept links at `path`, for processes of this user only.

    Args:
        path: the socket's file. Its directory is made if need be, for this user alone.
        owner: owns every accepted link.
        hello: what this process says about itself.
        limits: bounds on both directions.

    Raises:
        ConfigError: the path is too long, its directory is open to other users, a process already
            listens there, or something else than a socket is there.
    """
    _check_path(path)
    try:
        async with _locked_directory(os.path.dirname(path) or "."):
            remove_stale(path)
            sock = _bind(path)
    except OSError as error:
        raise ConfigError("socket", f"cannot listen at {path}: {error.strerror}") from error
    listener = _UnixListener(path, owner, hello, limits)
    try:
        await listener.start(sock)
    except BaseException:
        sock.close()
        await listener.aclose()
        raise
    return listener


class _UnixListener:
    """See `base.Listener`. Keeps only the connections that are not yet links."""

    def __init__(self, path: str, owner: LinkOwner, hello: Hello, limits: Limits) -> None:
        self._path = path
        self._owner = owner
        self._hello = hello
        self._limits = limits
        self._refused = 0
        self._waiting: dict[LastingLink, asyncio.TimerHandle] = {}
        self._tickets: Tickets = {}
        self._server: asyncio.AbstractServer | None = None
        self._file = _identity(path)
        self._closed = False

    @property
    def path(self) -> str:
        return self._path

    @property
    def refused(self) -> int:
        return self._refused

    async def start(self, sock: socket.socket) -> None:
        """Accept on a socket that listens."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._accept, sock=sock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self._closed = True
        if self._file is not None and _identity(self._path) == self._file:
            os.unlink(self._path)
        self._file = None
        if self._server is not None:
            self._server.close()
        for link in list(self._waiting):
            link.abort()
            await link.aclose()

    def _accept(self) -> LastingLink:
        def settled(error: AgentbusError | None) -> None:
            self._waiting.pop(link).cancel()
            self._refused += error is not None

        link = UnixLink(self._owner, self._hello, self._limits, settled, tickets=self._tickets)
        timer = asyncio.get_running_loop().call_later(HELLO_TIMEOUT, link.abort)
        self._waiting[link] = timer
        if self._closed:  # the loop had accepted it before
            link.abort()
        return link


def _check_path(path: str) -> None:
    size = len(os.fsencode(path))
    if size > _MAX_PATH:
        problem = f"{path} has {size} bytes, a socket's path at most {_MAX_PATH}; choose a shorter"
        raise ConfigError("socket", f"{problem} directory")


@asynccontextmanager
async def _locked_directory(directory: str) -> AsyncIterator[None]:
    """Hold the directory's lock: of two processes that start at once, one sees the other."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_directory(directory, os.fstat(descriptor))
        await _lock(directory, descriptor)
        yield
    finally:
        os.close(descriptor)


def _check_directory(directory: str, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise ConfigError("socket", f"the directory {directory} belongs to another user")
    if status.st_mode & 0o077:
        problem = f"the directory {directory} is open to others; name one of your own (chmod 700)"
        raise ConfigError("socket", problem)


async def _lock(directory: str, descriptor: int) -> None:
    try:
        async with asyncio.timeout(_LOCK_TIMEOUT):
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await asyncio.sleep(_LOCK_RETRY)
                else:
                    return
    except TimeoutError:
        raise ConfigError("socket", f"another process keeps {directory} locked") from None


def remove_stale(path: str) -> None:
    """Remove the socket of a process that listens there no more, if there is one.

    Raises:
        ConfigError: a process listens there, or something else than a socket is there.
        OSError: it cannot be looked at, or not removed.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError("socket", f"{path} exists and is not a socket; move it away")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # it listens, and its backlog is full
    raise ConfigError("socket", f"another process already listens at {path}")


def _bind(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
