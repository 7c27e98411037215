"""The secret of a folder of blocks: it names tenants and keys checksums."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ..errors import ConfigError
from ..kv import KEY_SIZE

__all__ = ["load_secret"]

_NAME = "secret"


def load_secret(folder: Path) -> bytes:
    """Return the secret that a folder holds, after making folder and secret if they are not there.

    Raises:
        ConfigError: it cannot be read or made, or is not one.
    """
    path = folder / _NAME
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            _make(path)
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            secret = file.read(KEY_SIZE + 1)
    except OSError as error:
        raise ConfigError("kv folder", f"{path} cannot be used ({error.strerror})") from error
    if len(secret) != KEY_SIZE:
        problem = f"{path} is not {KEY_SIZE} bytes; delete the folder, which is a cache"
        raise ConfigError("kv folder", problem)
    return secret


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
