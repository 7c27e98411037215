"""The commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import anyio
import typer

from ..config import BusSettings, EngineSettings
from ..errors import ConfigError
from .keys import KeyFile, ServerKey, keys, load
from .runtime import default_url, print_json, run, until_end_of_input

__all__ = ["app", "main"]

app = typer.Typer(
    name="agentbus",
    help="The communication layer for systems of foundation-model agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(keys, name="keys")

BusUrl = Annotated[
    str,
    typer.Option(
        "--bus",
        help="The bus, unix:///path/to.sock or ab://host:port.",
        envvar="AGENTBUS_URL",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UntilEof = Annotated[
    bool, typer.Option("--until-eof", help="Stop when standard input ends: for a parent process.")
]


def _url(given: str) -> str:
    return given or default_url()


def _path(url: str) -> str:
    path = url.removeprefix("unix://")
    if path in ("", url):
        raise ConfigError("url", f"{url!r} is not of the form unix:///path/to.sock")
    return path


@app.command()
def up(
    bus: BusUrl = "",
    listen: Annotated[
        str, typer.Option(help="ab://host:port, to be joined over tcp instead of --bus.")
    ] = "",
    key_file: KeyFile = None,
    authorized: Annotated[
        Path | None, typer.Option(help="The folder with the public keys that may join over tcp.")
    ] = None,
    until_eof: UntilEof = False,
    json: Json = False,
) -> None:
    """Start the broker; agents in other processes join it until it is stopped."""
    from ..client import Bus
    from ..daemon import start_broker

    async def job() -> None:
        keys = load(key_file, authorized=authorized)
        where = listen or _path(_url(bus))
        async with Bus.open(listen=where, name="broker", keys=keys) as broker:
            await start_broker(broker)
            url = broker.listens_at if listen else f"unix://{broker.listens_at}"
            if json:
                print_json({"ready": url})
            else:
                print(f"The bus is up at {url}. Stop it with Ctrl-C.", flush=True)
            await (until_end_of_input() if until_eof else anyio.sleep_forever())

    run(job, json=json, serves=True)


@app.command()
def worker(
    agents: Annotated[
        list[str] | None,
        typer.Argument(help="Agents to start: module:Class, or name=module:Class."),
    ] = None,
    bus: BusUrl = "",
    model: Annotated[str, typer.Option(help="The model behind the agents' generate.")] = "",
    serve: Annotated[
        list[str] | None, typer.Option(help="A model to run an engine for, in this process.")
    ] = None,
    name: Annotated[str, typer.Option(help="This process's name in logs and errors.")] = "worker",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, for --serve.")] = "float32",
    threads: Annotated[int, typer.Option(help="CPU threads for --serve; 0 for all cores.")] = 0,
    token_log: Annotated[str, typer.Option(help="A file for the token ids of each call.")] = "",
    key_file: KeyFile = None,
    server_key: ServerKey = None,
    until_eof: UntilEof = False,
    json: Json = False,
) -> None:
    """Join a bus with agents, engines or both, until stopped."""
    from ..workers import parse_target, run_worker

    async def ready(names: list[str]) -> None:
        if json:
            print_json({"ready": names})
        else:
            print(f"On the bus: {', '.join(names)}. Stop with Ctrl-C.", flush=True)
        await (until_end_of_input() if until_eof else anyio.sleep_forever())

    async def job() -> None:
        if not (agents or serve):
            raise ConfigError("worker", "name an agent (module:Class) or a model to --serve")
        settings = EngineSettings(dtype=dtype, threads=threads, token_log=token_log)
        await run_worker(
            _url(bus),
            [parse_target(text) for text in agents or []],
            name=name,
            model=model,
            serve=serve or [],
            engine_settings=settings,
            bus_settings=BusSettings(),
            keys=load(key_file, server=server_key),
            ready=ready,
        )

    # As with `python -m`: agents of the folder in which the command is run can be imported.
    sys.path.insert(0, str(Path.cwd()))
    run(job, json=json, serves=True)


@app.command()
def ps(
    bus: BusUrl = "",
    key_file: KeyFile = None,
    server_key: ServerKey = None,
    json: Json = False,
) -> None:
    """List the agents on a bus."""
    from rich.console import Console
    from rich.table import Table

    from ..client import Bus

    async def job() -> None:
        keys = load(key_file, server=server_key)
        async with Bus.open(_url(bus), name="ps", keys=keys) as joined:
            found = await joined.agents()
        if json:
            print_json([{"name": a.name, "process": a.peer, "socket": a.path} for a in found])
            return
        table = Table("agent", "process", "socket")
        for agent in found:
            table.add_row(agent.name, agent.peer, agent.path)
        Console().print(table)

    run(job, json=json)


@app.command()
def demo(
    input: Annotated[
        Path | None, typer.Option("--input", help="A text file to read instead of the demo's own.")
    ] = None,
    question: Annotated[str, typer.Option(help="The question that the team answers.")] = "",
    model: Annotated[
        str, typer.Option(help="smollm2, a .gguf file or a folder with safetensors.")
    ] = "smollm2",
    tokens: Annotated[int, typer.Option(help="Tokens that each turn is long.", min=1)] = 24,
    json: Json = False,
) -> None:
    """Let a team of agents answer a question, then compare with the ordinary ways."""
    from .demo import run_demo

    async def job() -> None:
        await run_demo(input, question, model=model, tokens=tokens, json=json)

    run(job, json=json)


def main() -> None:
    """Entry point of the `agentbus` command."""
    app()
