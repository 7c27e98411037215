"""The commands."""

from __future__ import annotations

import importlib.metadata
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import anyio
import typer

from .acl import acl
from .context import context
from .filters import filters
from .keys import Authorized, KeyFile, ServerKey, TokenFile, joining, keys, load, read_token
from .logs import configure_logging
from .options import BusUrl, Json, bus_url
from .runtime import default_url, run, serve
from .settings import find_settings_file, load_rules, load_settings, override

__all__ = ["app", "main"]

app = typer.Typer(
    name="agentbus",
    help="The communication layer for systems of foundation-model agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(keys, name="keys")
app.add_typer(acl, name="acl")
app.add_typer(context, name="context")
app.add_typer(filters, name="filters")

UntilEof = Annotated[
    bool, typer.Option("--until-eof", help="Stop when standard input ends: for a parent process.")
]
Config = Annotated[
    str,
    typer.Option(
        "--config", help="A settings file; else AGENTBUS_CONFIG, or ./agentbus.toml if present."
    ),
]
Metrics = Annotated[
    str, typer.Option("--metrics", help="Where to serve metrics: HOST:PORT, or off.")
]
Log = Annotated[
    Literal["text", "json"] | None, typer.Option("--log", help="How log lines are written.")
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option("--log-level", help="The least important lines that are logged."),
]


@app.command()
def up(
    bus: BusUrl = "",
    config: Config = "",
    metrics: Metrics = "",
    log: Log = None,
    log_level: LogLevel = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the settings, print them, and end.")
    ] = False,
    key_file: KeyFile = None,
    authorized: Authorized = None,
    until_eof: UntilEof = False,
    json: Json = False,
) -> None:
    """Start the broker; agents in other processes join it until it is stopped."""
    from .serving import check_up, run_up

    async def job(stop: anyio.Event) -> None:
        said = override(
            load_settings(find_settings_file(config)),
            listen=bus,
            metrics=metrics,
            format=log,
            level=log_level,
        )
        settings = override(said, listen=said.listen or default_url())
        if check:
            check_up(settings, json=json)
            return
        configure_logging(settings.log)
        keys = load(key_file, authorized=authorized)
        rules = partial(load_rules, find_settings_file(config))
        await run_up(settings, stop, rules, keys=keys, until_eof=until_eof, json=json)

    serve(job, json=json)


@app.command()
def worker(
    agents: Annotated[
        list[str] | None,
        typer.Argument(help="Agents to start: module:Class, or name=module:Class."),
    ] = None,
    bus: BusUrl = "",
    model: Annotated[str, typer.Option(help="The model behind the agents' generate.")] = "",
    serves: Annotated[
        list[str] | None,
        typer.Option("--serve", help="A model to run an engine for, in this process."),
    ] = None,
    name: Annotated[str, typer.Option(help="This process's name in logs and errors.")] = "worker",
    dtype: Annotated[
        str,
        typer.Option(
            help=r"auto, float32 or bfloat16, for --serve; more in agentbus.toml's \[engine]."
        ),
    ] = "",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads for --serve; 0 for all cores.")
    ] = None,
    prices: Annotated[
        str,
        typer.Option(
            metavar="PROMPT,REUSED,ANSWER",
            help="What 1000 tokens cost, for --serve: of prompts, of what is reused, of answers.",
        ),
    ] = "",
    token_log: Annotated[str, typer.Option(help="A file for the token ids of each call.")] = "",
    config: Config = "",
    metrics: Metrics = "",
    drain_timeout: Annotated[
        float | None,
        typer.Option(help="Seconds to go on with requests under way, once told to end."),
    ] = None,
    log: Log = None,
    log_level: LogLevel = None,
    key_file: KeyFile = None,
    server_key: ServerKey = None,
    token: TokenFile = None,
    listen: Annotated[
        str,
        typer.Option(
            help="Where other workers reach this one directly: ab://HOST:PORT, as they see it."
        ),
    ] = "",
    authorized: Authorized = None,
    until_eof: UntilEof = False,
    json: Json = False,
) -> None:
    """Join a bus with agents, engines or both, until stopped."""
    from .serving import parse_prices, start_worker

    async def job(stop: anyio.Event) -> None:
        settings = override(
            load_settings(find_settings_file(config)),
            listen=bus,
            metrics=metrics,
            drain_timeout=drain_timeout,
            format=log,
            level=log_level,
            dtype=dtype,
            threads=threads,
            prices=parse_prices(prices) if prices else None,
            token_log=token_log,
        )
        configure_logging(settings.log)
        await start_worker(
            settings,
            settings.listen or default_url(),
            agents or [],
            stop,
            name=name,
            model=model,
            serve=serves or [],
            keys=load(key_file, server=server_key, authorized=authorized),
            token=read_token(token),
            listen=listen,
            until_eof=until_eof,
            json=json,
        )

    # As with `python -m`: agents of the folder in which the command is run can be imported.
    sys.path.insert(0, str(Path.cwd()))
    serve(job, json=json)


@app.command()
def ps(
    bus: BusUrl = "",
    key_file: KeyFile = None,
    server_key: ServerKey = None,
    token: TokenFile = None,
    json: Json = False,
) -> None:
    """List the agents on a bus."""
    from .watching import run_ps

    run(lambda: run_ps(joining(bus_url(bus), key_file, server_key, token), json=json), json=json)


@app.command()
def call(
    name: Annotated[str, typer.Argument(help="The agent to ask.")],
    value: Annotated[str, typer.Argument(metavar="JSON", help="What to ask it, as JSON.")],
    kind: Annotated[
        str,
        typer.Option(
            "--type", help="The message's type: Module:Class, or a type's name that NAME handles."
        ),
    ] = "",
    deadline: Annotated[float | None, typer.Option(help="Seconds to wait for the answer.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print parts as they come.")] = False,
    bus: BusUrl = "",
    key_file: KeyFile = None,
    server_key: ServerKey = None,
    token: TokenFile = None,
    json: Json = False,
) -> None:
    """Ask an agent and print its answer."""
    from .calling import run_call

    async def job() -> None:
        await run_call(
            joining(bus_url(bus), key_file, server_key, token),
            name,
            value,
            kind=kind,
            deadline=deadline,
            stream=stream,
            json=json,
        )

    sys.path.insert(0, str(Path.cwd()))
    run(job, json=json)


@app.command()
def tail(
    pattern: Annotated[
        str, typer.Argument(help="Topics: '*' stands for one token, '>' for the rest.")
    ] = ">",
    bus: BusUrl = "",
    key_file: KeyFile = None,
    server_key: ServerKey = None,
    token: TokenFile = None,
    json: Json = False,
) -> None:
    """Print what is published, until stopped."""
    from .watching import run_tail

    run(
        lambda: run_tail(joining(bus_url(bus), key_file, server_key, token), pattern, json=json),
        json=json,
    )


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="Look for one second, then end.")] = False,
    bus: BusUrl = "",
    key_file: KeyFile = None,
    server_key: ServerKey = None,
    token: TokenFile = None,
    json: Json = False,
) -> None:
    """Show what the agents on a bus do: rates, times, queues, errors, tokens."""
    from .watching import run_top

    run(
        lambda: run_top(joining(bus_url(bus), key_file, server_key, token), once=once, json=json),
        json=json,
    )


@app.command()
def trace(
    trace: Annotated[
        str, typer.Argument(metavar="[ID]", help="A trace's id, or how it begins.")
    ] = "",
    bus: BusUrl = "",
    key_file: KeyFile = None,
    server_key: ServerKey = None,
    token: TokenFile = None,
    json: Json = False,
) -> None:
    """List the latest traces, or show who asked whom in one, and how long that took."""
    from .tracing import run_trace

    run(
        lambda: run_trace(joining(bus_url(bus), key_file, server_key, token), trace, json=json),
        json=json,
    )


@app.command()
def doctor(
    bus: BusUrl = "",
    key_file: KeyFile = None,
    server_key: ServerKey = None,
    token: TokenFile = None,
    json: Json = False,
) -> None:
    """Check this machine and the bus; say what to do about what is wrong."""
    from .doctor import run_doctor

    healthy: list[bool] = []

    async def job() -> None:
        healthy.append(
            await run_doctor(
                bus_url(bus), joining(bus_url(bus), key_file, server_key, token), json=json
            )
        )

    run(job, json=json)
    if not all(healthy):
        raise SystemExit(1)


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


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """The communication layer for systems of foundation-model agents."""
    if show:
        print(f"fm-agentbus {importlib.metadata.version('fm-agentbus')}")
        raise typer.Exit


def main() -> None:
    """Entry point of the `agentbus` command."""
    app()
