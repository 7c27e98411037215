"""`agentbus keys`: make key files for tcp, and show what they hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..client import Bus
from ..config import Keys
from ..errors import ConfigError
from .runtime import print_json, run

__all__ = ["Authorized", "Join", "KeyFile", "ServerKey", "joining", "keys", "load"]

keys = typer.Typer(help="Make and show the keys that encrypt tcp.", no_args_is_help=True)

Folder = Annotated[Path | None, typer.Option("--folder", help="Where the key files are.")]
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
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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


def joining(url: str, secret: Path | None, server: Path | None) -> Join:
    """Return how a command joins a bus, with the keys that its options name, if any."""

    def join(name: str) -> Bus:
        return Bus.open(url, name=name, keys=load(secret, server=server))

    return join


@keys.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose keys they are.")],
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Make a key pair: NAME.key to hand out, NAME.key_secret to keep."""
    from ..transport.zmq_keys import create_keys

    async def job() -> None:
        public = create_keys(_folder(folder), name)
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
