"""`python -m perf SUITE [--quick] [--peer NAME…] [--data FOLDER] [--json FILE]`."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvloop
from rich.console import Console

from agentbus.errors import AgentbusError

from .children import ChildFailed
from .compiled import is_compiled
from .exact.suite import SUITE as EXACTNESS
from .faults.suite import SUITE as FAULTS
from .macro import engine, fanout_context, filters, hops, masking, reuse
from .micro import bulk, bus, context, fanout, scale, stream, telemetry
from .peers import Peer, installed_version
from .report import VIOLATIONS, Row, show, write_json
from .suite import Suite, select

__all__ = ["SUITES", "main"]

SUITES: Mapping[str, Suite] = {
    "bulk": bulk.SUITE,
    "bus": bus.SUITE,
    "context": context.SUITE,
    "engine": engine.SUITE,
    "exactness": EXACTNESS,
    "fanout": fanout.SUITE,
    "fanout_context": fanout_context.SUITE,
    "faults": FAULTS,
    "filters": filters.SUITE,
    "hops": hops.SUITE,
    "masking": masking.SUITE,
    "reuse": reuse.SUITE,
    "scale": scale.SUITE,
    "stream": stream.SUITE,
    "telemetry": telemetry.SUITE,
}

_OUR_DISTRIBUTIONS = ("fm-agentbus", "uvloop", "pydantic")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one suite, print its table, and return the exit status."""
    arguments = _parser().parse_args(argv)
    suite = SUITES[arguments.suite]
    errors = Console(stderr=True, highlight=False)
    try:
        suite = _on_data(suite, arguments.data)
        selection = select(suite, arguments.peer)
    except ValueError as error:
        errors.print(f"perf: {error}")
        return 2
    for word in selection.skipped:
        errors.print(word)
    try:
        rows = _run(suite, [peer.name for peer in selection.peers], arguments.quick, errors)
    except (ChildFailed, AgentbusError) as error:
        errors.print(f"perf: {error}")
        return 1
    except KeyboardInterrupt:
        errors.print("perf: interrupted")
        return 130
    show(Console(), f"perf {suite.name}", rows, _versions(selection.peers), suite.method)
    if arguments.json is not None:
        write_json(arguments.json, rows)
    return 1 if any(row.unit == VIOLATIONS and row.value for row in rows) else 0


def _on_data(suite: Suite, data: Path | None) -> Suite:
    if data is None:
        return suite
    if suite.on_data is None:
        raise ValueError(f"the suite {suite.name} reads no data")
    if not data.is_dir():
        raise ValueError(f"{data} is no folder")
    return replace(suite, run=suite.on_data(data))


def _run(suite: Suite, peers: Sequence[str], quick: bool, console: Console) -> list[Row]:
    if not console.is_terminal:  # a spinner would show nothing there
        return uvloop.run(
            suite.run(peers, quick=quick, progress=partial(console.print, markup=False))
        )
    with console.status(f"perf {suite.name}") as status:
        return uvloop.run(suite.run(peers, quick=quick, progress=status.update))


def _versions(peers: Sequence[Peer]) -> dict[str, str]:
    found = {name: installed_version(name) for name in _OUR_DISTRIBUTIONS}
    for peer in peers:
        found |= peer.versions()
    versions = {name: number or "not installed" for name, number in found.items()}
    form = "compiled" if is_compiled() else "not compiled"
    versions[_OUR_DISTRIBUTIONS[0]] += f" ({form})"
    return {"Python": platform.python_version(), **versions}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m perf",
        description="Measure agentbus against its peers on this machine, in one run.",
    )
    parser.add_argument("suite", choices=SUITES, help="what to measure")
    parser.add_argument("--quick", action="store_true", help="end within 60 s, less precise")
    parser.add_argument(
        "--peer",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="only these peers; without it, all that are installed",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="recorded data, for the suites filters and reuse; else ../shared/data",
    )
    parser.add_argument(
        "--json", type=_writable, metavar="FILE", help="also write the rows there, as JSON"
    )
    return parser


def _writable(text: str) -> Path:
    """Check before the run, not after it, that the file can be written."""
    path = Path(text)
    is_new = not path.exists()
    try:
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {text}: {error.strerror}") from None
    return path


if __name__ == "__main__":
    sys.exit(main())
