"""`agentbus keys`: make key files for tcp, and show what they hold."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from ..client import Bus
from ..config import Keys
from ..errors import ConfigError, UnreadableFile
from ..names import check_agent_name
from ..routing import TOKEN_PREFIX, hash_token
from .options import Json
from .runtime import print_json, run

__all__ = [
    "Authorized",
    "Join",
    "KeyFile",
    "ServerKey",
    "TokenFile",
    "joining",
    "keys",
    "load",
    "read_token",
]

keys = typer.Typer(
    help="Make and show the keys that encrypt tcp, and tokens to join with.", no_args_is_help=True
)

Folder = Annotated[
    Path | None,
    typer.Option("--folder", help="Where the key files are; else ~/.config/agentbus/keys."),
]
KeyFile = Annotated[
    Path | None, typer.Option("--keys", help="This process's NAME.key_secret, for ab:// urls.")
]
ServerKey = Annotated[
    Path | None, typer.Option("--server-key", help="The bus's NAME.key, for ab:// urls.")
]
Authorized = Annotated[
    Path | None,
    typer.Option("--authorized", help="The folder with the public keys that may join over tcp."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token", help="The file of a token to join with; else AGENTBUS_TOKEN holds it."),
]
Expires = Annotated[
    str, typer.Option("--expires", help="How long it is good for: 90d, 12h, 30m; else for ever.")
]


def _folder(given: Path | None) -> Path:
    if given is not None:
        return given
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "agentbus" / "keys"


def load(
    secret: Path | None, *, server: Path | None = None, authorized: Path | None = None
) -> Keys | None:
    """Read the keys that a command's options name; None if they name none."""
    from ..transport.zmq_keys import load_keys

    if secret is None:
        if server is not None or authorized is not None:
            raise ConfigError("keys", "name this process's own secret key with --keys")
        return None
    return load_keys(secret, server=server, authorized=authorized)


Join = Callable[[str], Bus]
"""Joins the bus that a command is about, under the name of the command."""


_SPAN = re.compile(r"([1-9]\d{0,5})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_MAX_TOKEN_FILE = 4096


def _moment(span: str) -> datetime | None:
    """Return when something ends that is good for a time as `--expires` has it."""
    if not span:
        return None
    found = _SPAN.fullmatch(span)
    if found is None:
        raise ConfigError("expires", f"{span!r} is not of the form 90d, 12h or 30m")
    return datetime.now(UTC).replace(microsecond=0) + timedelta(**{_UNITS[found[2]]: int(found[1])})


def read_token(path: Path | None) -> str:
    """Return the token in a file, or `AGENTBUS_TOKEN`'s; empty if there is none.

    Raises:
        UnreadableFile: the file cannot be read, or is no token's.
        ConfigError: other users can read it.
    """
    from ..transport.zmq_keys import check_private

    if path is None:
        return os.environ.get("AGENTBUS_TOKEN", "")
    check_private(path, "token")
    with path.open("rb") as file:
        token = file.read(_MAX_TOKEN_FILE).decode("ascii", "replace").strip()
    if not token.startswith(TOKEN_PREFIX):
        raise UnreadableFile(str(path), "it holds no token of agentbus")
    return token


def joining(url: str, secret: Path | None, server: Path | None, token: Path | None) -> Join:
    """Return how a command joins a bus, with the keys and token that its options name, if any."""

    def join(name: str) -> Bus:
        keys = load(secret, server=server)
        return Bus.open(url, name=name, keys=keys, token=read_token(token))

    return join


@keys.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose keys they are.")],
    folder: Folder = None,
    expires: Expires = "",
    json: Json = False,
) -> None:
    """Make a key pair: NAME.key to hand out, NAME.key_secret to keep."""
    from ..transport.zmq_keys import create_keys

    async def job() -> None:
        public = create_keys(_folder(folder), name, _moment(expires))
        secret = public.with_suffix(".key_secret")
        if json:
            print_json({"public": str(public), "secret": str(secret)})
        else:
            print(f"Made {public}, for others to have, and {secret}, for this user alone.")

    run(job, json=json)


@keys.command()
def show(folder: Folder = None, json: Json = False) -> None:
    """List the public keys in a folder."""
    from ..transport.zmq_keys import public_keys

    async def job() -> None:
        found = public_keys(_folder(folder))
        if json:
            print_json(found)
            return
        for name, key in found.items():
            print(f"{key}  {name}")

    run(job, json=json)


@keys.command()
def token(
    name: Annotated[str, typer.Argument(help="As whom its holder joins.")],
    file: Annotated[
        Path, typer.Option("--file", help="Where the token is put, for this user alone.")
    ],
    expires: Expires = "",
    json: Json = False,
) -> None:
    """Make a token to join with, and print what the broker's agentbus.toml is to say of it."""

    async def job() -> None:
        check_agent_name(name)
        until = _moment(expires)
        made = TOKEN_PREFIX + secrets.token_urlsafe(32)
        _write_new(file, made + "\n")
        digest = hash_token(made)
        moment = "" if until is None else until.isoformat().replace("+00:00", "Z")
        if json:
            print_json({"name": name, "file": str(file), "hash": digest, "expires": moment})
            return
        print(f'[tokens.{_quoted(name)}]\nhash = "{digest}"')
        if moment:
            print(f"expires = {moment}")

    run(job, json=json)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _write_new(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError("token", f"cannot make {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
