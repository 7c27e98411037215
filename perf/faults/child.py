"""`python -m perf.faults.child listen|join URL FOLDER`: the clerk in a process to kill.

Listens at the url, or joins the broker there; over tcp with the keys in the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop

from agentbus import Bus
from agentbus.transport import TCP_SCHEME

from ..children import announce_and_wait
from .cases import HEALTHY, load_both_keys
from .work import Clerk


async def _serve(mode: str, url: str, folder: Path) -> None:
    keys = None
    if url.startswith(TCP_SCHEME):
        listening, joining = load_both_keys(folder)
        keys = listening if mode == "listen" else joining
    join, listen = ("", url) if mode == "listen" else (url, "")
    async with Bus.open(join, listen=listen, name="doomed", settings=HEALTHY, keys=keys) as bus:
        await bus.spawn(Clerk(), name="clerk")
        await announce_and_wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
