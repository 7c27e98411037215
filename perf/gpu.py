"""Figures of the torch engine on one GPU: `python perf/gpu.py [--device cuda] [--tiny]`.

No network: the model has Llama 3.1 8B's shape and random weights, made on the device and written to
a folder (16 GB, in memory where there is room), which our engine and transformers load. Prints a
line of JSON a figure, with the floor that the device sets, measured in the same run.

Needs torch, transformers, safetensors, tokenizers, jinja2, and of agentbus's own dependencies
anyio, apsw, blake3, msgpack, orjson, pydantic, prometheus-client, pyzmq and uvloop; no package of
agentbus need be installed. `--tiny` checks the command itself, on a CPU within a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perf.device.figures import Device, Figure
    from perf.device.shapes import Shape
    from perf.device.work import Work

ROOT = Path(__file__).resolve().parents[1]
SHARED_MEMORY = Path("/dev/shm")


def main() -> int:
    """Measure, and print as it comes."""
    # A script's own folder would stand first on the path, and hide modules of the same names.
    sys.path[:1] = [str(ROOT), str(ROOT / "adapters")]
    parser = argparse.ArgumentParser(description="Figures of the torch engine on one GPU.")
    parser.add_argument("--device", default="cuda", help="a torch device (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to check the command")
    parser.add_argument("--no-peer", action="store_true", help="leave transformers out")
    arguments = parser.parse_args()
    from perf.device import shapes, work

    shape = shapes.TINY if arguments.tiny else shapes.LLAMA_8B
    asked = work.SMALL if arguments.tiny else work.FULL
    asyncio.run(_measure(arguments.device, shape, asked, with_peer=not arguments.no_peer))
    return 0


async def _measure(device_name: str, shape: Shape, work: Work, *, with_peer: bool) -> None:
    import torch

    from perf.device.figures import device_figures, shared_figure
    from perf.device.peer import continuous_batching_rate
    from perf.device.shapes import write_folder

    where = torch.device(device_name)
    device, figures = device_figures(where, work)
    for figure in figures:
        _print(device, figure)
    with _folder(shape) as folder:
        write_folder(folder, shape, where)
        ours = await _measure_ours(folder, device_name, shape, work, device)
        gc.collect()
        if where.type == "cuda":
            torch.cuda.empty_cache()
        theirs = continuous_batching_rate(folder, shape, work, where) if with_peer else None
    _print(device, shared_figure(shape, work, device, ours, theirs))


async def _measure_ours(
    folder: Path, device_name: str, shape: Shape, work: Work, device: Device
) -> float:
    from agentbus_torch.engine import load_engine

    from agentbus.config import EngineSettings
    from perf.device.figures import engine_figures, shared_rate

    settings = EngineSettings(dtype="bfloat16", device=device_name, kv_tokens=work.kv_tokens)
    engine = load_engine(str(folder), settings)
    try:
        async for figure in engine_figures(engine, shape, work, device):
            _print(device, figure)
        return await shared_rate(engine, shape, work)
    finally:
        await engine.aclose()


@contextmanager
def _folder(shape: Shape) -> Iterator[Path]:
    """Give a folder for the weights, gone afterwards; in shared memory if they fit there twice."""
    needed = 2 * (shape.read_bytes + 2 * shape.hidden * shape.vocabulary)
    in_memory = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > needed
    parent = str(SHARED_MEMORY) if in_memory else None
    with tempfile.TemporaryDirectory(prefix="perf-gpu-", dir=parent) as folder:
        yield Path(folder)


def _print(device: Device, figure: Figure) -> None:
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in figure.items()}
    print(json.dumps({**rounded, "device": device.name}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
