"""The secret of a folder of blocks: it names tenants and keys checksums."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from ..errors import ConfigError
from ..kv import KEY_SIZE

__all__ = ["load_secret"]

_NAME = "secret"


def load_secret(folder: Path) -> bytes:
    """Return the secret that a folder holds, after making folder and secret if they are not there.

    Who knows the secret can make blocks that are believed: one that others may have read or
    written is not used, nor is a folder of others, or one that holds something else.

    Raises:
        ConfigError: it cannot be read or made, or is not one, or not this user's alone.
    """
    path = folder / _NAME
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own(folder, folder.stat())
        if not path.is_symlink() and not path.exists():
            _require_unused(folder)
            with contextlib.suppress(FileExistsError):
                _make(path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            secret = file.read(KEY_SIZE + 1) if stat.S_ISREG(status.st_mode) else b""
    except (OSError, ValueError) as error:
        problem = f"{path} cannot be used ({getattr(error, 'strerror', None) or error})"
        raise ConfigError("kv folder", problem) from error
    if len(secret) != KEY_SIZE:
        problem = f"{path} is not {KEY_SIZE} bytes; delete the folder, which is a cache"
        raise ConfigError("kv folder", problem)
    _require_own(path, status)
    if status.st_mode & 0o077:
        problem = f"others may have read or written {path}; delete the folder, which is a cache"
        raise ConfigError("kv folder", problem)
    return secret


def _require_own(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise ConfigError("kv folder", f"{path} belongs to another user; choose another folder")


def _require_unused(folder: Path) -> None:
    """Refuse to make a cache of what is none: it deletes files that it does not know."""
    strange = (entry for entry in os.listdir(folder) if not entry.startswith(f"{_NAME}."))
    if (entry := next(strange, None)) is not None:
        problem = f"{folder} holds {entry!r} and no {_NAME}; choose a folder for this alone"
        raise ConfigError("kv folder", problem)


def _make(path: Path) -> None:
    """Make a secret that is whole or not there.

    Raises:
        FileExistsError: there is one.
    """
    part = path.with_name(f"{_NAME}.{secrets.token_hex(8)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(part, flags, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_SIZE))
        os.link(part, path)  # unlike a rename it fails where another process was faster
    finally:
        part.unlink(missing_ok=True)
