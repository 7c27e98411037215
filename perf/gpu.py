"""Figures of the torch engine on one GPU: `python perf/gpu.py [--device cuda] [--tiny]`.

No network: the model has Llama 3.1 8B's shape and random weights, made on the device and written to
a folder (16 GB, in memory where there is room), which our engine and transformers load. Prints a
line of JSON a figure, with the floor that the device sets, measured in the same run. A figure that
fails says so in `error`, and costs no other; transformers runs in a process of its own.

Needs torch, transformers, safetensors, tokenizers, jinja2, and of agentbus's own dependencies
anyio, blake3, msgpack, orjson and pydantic; no package of agentbus need be installed. `--tiny` checks the command itself, on a CPU within a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

    from perf.device.figures import Device, Figure
    from perf.device.shapes import Shape
    from perf.device.work import Work

ROOT = Path(__file__).resolve().parents[1]
SHARED_MEMORY = Path("/dev/shm")
FIGURE_LIMIT_S = 90.0
VARIANT_LIMIT_S = 60.0
PEER_LIMIT_S = 150.0
"""For all variants of the peer's settings together."""

Result = TypeVar("Result")


def main() -> int:
    """Measure, and print as it comes."""
    # A script's own folder would stand first on the path, and hide modules of the same names.
    sys.path[:1] = [str(ROOT), str(ROOT / "adapters")]
    parser = argparse.ArgumentParser(description="Figures of the torch engine on one GPU.")
    parser.add_argument("--device", default="cuda", help="a torch device (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to check the command")
    parser.add_argument("--no-peer", action="store_true", help="leave transformers out")
    arguments = parser.parse_args()
    import torch

    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; --device cpu --tiny checks the command")
    from perf.device import shapes, work

    shape = shapes.TINY if arguments.tiny else shapes.LLAMA_8B
    asked = work.SMALL if arguments.tiny else work.FULL
    asyncio.run(_measure(arguments.device, shape, asked, with_peer=not arguments.no_peer))
    return 0


async def _measure(device_name: str, shape: Shape, work: Work, *, with_peer: bool) -> None:
    import torch

    from perf.device.figures import device_figures, shared_figure
    from perf.device.shapes import write_folder

    where = torch.device(device_name)
    device, figures = device_figures(where, work)
    for name, figure in figures.items():
        _print(name, device, figure)
    ours = theirs = best = None
    shared = f"shared_{work.requests}x{work.decoded}_on_{work.cached}"
    with _folder(shape) as folder:
        write_folder(folder, shape, where)
        with _told("engine", device):
            ours = await _measure_ours(folder, device_name, shape, work, device)
        gc.collect()
        if where.type == "cuda":
            with _told("free_memory", device):
                torch.cuda.empty_cache()
        if with_peer:
            rates = await _measure_theirs(folder, shape, work, device, where)
            best = max(rates, key=rates.__getitem__, default=None)
            theirs = rates[best] if best else None
    figure = shared_figure(shape, work, device, ours, theirs)
    _print(shared, device, {**figure, "peer_settings": best})


async def _measure_ours(
    folder: Path, device_name: str, shape: Shape, work: Work, device: Device
) -> float | None:
    """Measure our engine; return its tokens a second of siblings, if it got that far."""
    from agentbus_torch.engine import load_engine

    from agentbus.config import EngineSettings
    from perf.device.figures import engine_figures, shared_rate
    from perf.device.work import warm_up

    settings = EngineSettings(dtype="bfloat16", device=device_name, kv_tokens=work.kv_tokens)
    engine = load_engine(str(folder), settings)
    rate = None
    try:
        with _told("warm_up", device):
            await _in_time(partial(warm_up, engine, work, shape.vocabulary))
        for name, measure in engine_figures(engine, shape, work, device).items():
            with _told(name, device):
                _print(name, device, await _in_time(measure))
        with _told(f"shared_{work.requests}x{work.decoded}_on_{work.cached}_ours", device):
            rate = await _in_time(partial(shared_rate, engine, shape, work))
    finally:
        with _told("close", device):
            await engine.aclose()
    return rate


async def _measure_theirs(
    folder: Path, shape: Shape, work: Work, device: Device, where: torch.device
) -> dict[str, float]:
    """Measure transformers with each set of settings, all of which are printed.

    In a process of its own, with all of the device's memory.
    """
    from anyio import fail_after, to_process

    from perf.device.peer import continuous_batching_rate, variants

    rates: dict[str, float] = {}
    ends = monotonic() + PEER_LIMIT_S
    for variant in variants(work, where):
        name = f"shared_{work.requests}x{work.decoded}_on_{work.cached}_peer_{variant.name}"
        with _told(name, device), fail_after(min(VARIANT_LIMIT_S, ends - monotonic())):
            rate = await to_process.run_sync(
                continuous_batching_rate, folder, shape, work, where, variant, cancellable=True
            )
            rates[variant.name] = rate
            _print(name, device, {"value": rate, "unit": "tok_s", "settings": {**variant.settings}})
    return rates


async def _in_time(measure: Callable[[], Awaitable[Result]]) -> Result:
    async with asyncio.timeout(FIGURE_LIMIT_S):
        return await measure()


@contextmanager
def _told(name: str, device: Device) -> Iterator[None]:
    """Print what breaks, in the figure's place, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - one figure shall not cost the others
        traceback.print_exception(error)
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        _print(name, device, {"value": None, "error": f"{type(error).__name__}: {error}"})


@contextmanager
def _folder(shape: Shape) -> Iterator[Path]:
    """Give a folder for the weights, gone afterwards; in shared memory if they fit there twice."""
    needed = 2 * (shape.read_bytes + 2 * shape.hidden * shape.vocabulary)
    in_memory = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > needed
    parent = str(SHARED_MEMORY) if in_memory else None
    with tempfile.TemporaryDirectory(prefix="perf-gpu-", dir=parent) as folder:
        yield Path(folder)


def _print(name: str, device: Device, figure: Figure) -> None:
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in figure.items()}
    print(json.dumps({"figure": name, **rounded, "device": device.name}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
