"""Reads the keys of a process that joins or listens over tcp."""

from __future__ import annotations

from pathlib import Path

from ..config import Keys

__all__ = ["load_keys"]


def load_keys(
    secret: str | Path,
    *,
    server: str | Path | None = None,
    authorized: str | Path | None = None,
) -> Keys:
    """Read the files that `agentbus keys new` makes.

    Args:
        secret: this process's own `NAME.key_secret`.
        server: to join a bus, the `NAME.key` of the process that listens.
        authorized: to listen, the folder with the public keys that may join, as it is now.

    Raises:
        ConfigError: the secret can be read by other users.
        UnreadableFile: a file is missing, or holds no key.
    """
    from ..transport.zmq_keys import load_keys as load

    paths = [None if path is None else Path(path) for path in (server, authorized)]
    return load(Path(secret), server=paths[0], authorized=paths[1])
