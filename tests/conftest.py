"""Settings that all tests share."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

if os.environ.get("AGENTBUS_TEST_COMPILED"):
    # `make test-compiled`: the same tests, of the compiled modules.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "build" / "compiled"))


def pytest_collection_finish() -> None:
    """Let the collector leave alone what stays to the end: thousands of tests and all modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=[("asyncio", {"use_uvloop": True})], ids=["uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """The event loop that agentbus runs on."""
    backend: tuple[str, dict[str, bool]] = request.param
    return backend


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """A folder with a path short enough for sockets, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="ab-") as folder:
        yield Path(folder)
