"""Files of CURVE keys: `NAME.key` for others to have, `NAME.key_secret` for this user alone."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import zmq.auth

from ..config import Keys
from ..errors import ConfigError, UnreadableFile
from ..names import check_agent_name
from .zmq_io import require_curve

__all__ = ["check_private", "create_keys", "key_expiries", "load_keys", "public_keys"]

PUBLIC = ".key"
SECRET = ".key_secret"
_MAX_FILE = 64 * 1024
_OTHERS = 0o077
_EXPIRES = "expires"


def create_keys(folder: Path, name: str, expires: datetime | None = None) -> Path:
    """Make a new key pair in `folder` and return the file of its public key.

    That file says when the key ends, for who authorizes it: an authorized key that has ended is not
    let in, and links of one that ends are closed.

    Raises:
        InvalidName: the name is not well formed.
        ConfigError: there are keys of that name, or the folder cannot be written.
    """
    require_curve()
    check_agent_name(name)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made where nobody else can look, and linked, which never replaces a file.
        with TemporaryDirectory(dir=folder) as private:
            public, secret = zmq.auth.create_certificates(private, name)
            os.chmod(secret, 0o600)
            os.chmod(public, 0o644)
            if expires is not None:
                _write_expiry(Path(public), expires)
            os.link(secret, folder / f"{name}{SECRET}")
            os.link(public, folder / f"{name}{PUBLIC}")
    except FileExistsError:
        raise ConfigError("keys", f"{folder} has keys of the name {name} already") from None
    except OSError as error:
        raise ConfigError("keys", f"cannot write to {folder}: {error.strerror}") from error
    return folder / f"{name}{PUBLIC}"


def load_keys(secret: Path, *, server: Path | None = None, authorized: Path | None = None) -> Keys:
    """Read a process's own keys and those of others.

    Args:
        secret: the file of its secret key, which no other user may read.
        server: the file of the public key of the process to connect to.
        authorized: the folder with the public keys that may connect to this process.

    Raises:
        UnreadableFile: a file cannot be read or has no such key.
        ConfigError: others can read the secret, or a key is not well formed.
    """
    own, hidden = _read(secret)
    if hidden is None:
        raise UnreadableFile(str(secret), f"it has no secret key; NAME{SECRET} has")
    check_private(secret, "keys")
    return Keys(
        public=own,
        secret=hidden,
        server="" if server is None else _read(server)[0],
        authorized={} if authorized is None else public_keys(authorized),
        expires={} if authorized is None else key_expiries(authorized),
    )


def public_keys(folder: Path) -> dict[str, str]:
    """Return the public keys in a folder, by their names.

    Raises:
        UnreadableFile: the folder or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise UnreadableFile(str(folder), "it is no folder")
    return {path.stem: _read(path)[0] for path in sorted(folder.glob(f"*{PUBLIC}"))}


def key_expiries(folder: Path) -> dict[str, float]:
    """Return when keys in a folder end, in seconds since 1970, by their names, if they do.

    Raises:
        UnreadableFile: a file says it in no form that is known.
    """
    found = {path.stem: _read_expiry(path) for path in sorted(folder.glob(f"*{PUBLIC}"))}
    return {name: until for name, until in found.items() if until is not None}


def _write_expiry(path: Path, expires: datetime) -> None:
    moment = expires.astimezone(UTC).isoformat(timespec="seconds")
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("metadata\n", f"metadata\n    {_EXPIRES} = {moment}\n", 1), "utf-8"
    )


def _read_expiry(path: Path) -> float | None:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name.strip() == _EXPIRES:
            try:
                moment = datetime.fromisoformat(value.strip(" \"'"))
            except ValueError:
                moment = datetime.min
            if moment.tzinfo is None:
                problem = "its expiry is no moment with a zone, as in 2030-01-31T12:00:00Z"
                raise UnreadableFile(str(path), problem)
            return moment.timestamp()
    return None


def check_private(path: Path, setting: str) -> None:
    """Make sure that the file that a setting names is this user's, and nobody else's to read.

    Raises:
        UnreadableFile: it is not there.
        ConfigError: it is another user's, or open to others.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableFile(str(path), error.strerror or str(error)) from None
    if status.st_uid != os.geteuid():
        raise ConfigError(setting, f"{path} belongs to another user")
    if stat.S_IMODE(status.st_mode) & _OTHERS:
        raise ConfigError(setting, f"{path} is open to other users; run chmod 600 on it")


def _read(path: Path) -> tuple[str, str | None]:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise UnreadableFile(str(path), f"it is over {_MAX_FILE} bytes")
        public, secret = zmq.auth.load_certificate(path)
        return public.decode("ascii"), secret.decode("ascii") if secret else None
    except OSError as error:
        raise UnreadableFile(str(path), error.strerror or "it is not there") from None
    except ValueError:
        # Its own text may hold what stands in the file.
        raise UnreadableFile(str(path), "it holds no key of CURVE") from None
