"""What the torch engine's pool stores and removes, as the bus's own subscriber reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from agentbus_torch import open_engine
from agentbus_torch.engine import TorchEngine

from agentbus.config import EngineSettings
from agentbus.engine import GenerateRequest
from agentbus.errors import ConfigError
from agentbus.kv import Hints
from agentbus.transport.kv_events import KVEventSubscriber
from tests.torch.tiny import TinyModel, tiny_settings
from tests.waiting import until

pytestmark = pytest.mark.anyio

ONE, TWO = tuple(range(3, 163)), tuple(range(200, 40, -1))
"""Prompts of ten blocks each, in a pool of sixteen."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel(window=512).write(tmp_path_factory.mktemp("tiny"))


class Reader:
    """A router that reads the events of one engine."""

    def __init__(self, engine: TorchEngine, settings: EngineSettings) -> None:
        self.hints = Hints()
        self.view = self.hints.view("a")
        assert engine._runner.tiers is not None
        self.salt = engine._runner.tiers.chain("").salt
        self.subscriber = KVEventSubscriber(
            self.view, endpoint=settings.kv_events, replay_endpoint=settings.kv_events_replay
        )

    def held(self, prompt: tuple[int, ...]) -> int:
        """Return how many tokens of a prompt the engine is believed to hold in its own pool."""
        return self.hints.overlaps(prompt, salt=self.salt)["a"].device_tokens


Readers = Callable[[TorchEngine, EngineSettings], Reader]


@pytest.fixture
async def readers() -> AsyncIterator[Readers]:
    """Makes readers, and closes them however the test ends."""
    made: list[Reader] = []

    def make(engine: TorchEngine, settings: EngineSettings) -> Reader:
        made.append(Reader(engine, settings))
        return made[-1]

    yield make
    for reader in made:
        reader.subscriber.close()


@asynccontextmanager
async def opened(
    folder: Path, sockets: Path, **more: object
) -> AsyncIterator[tuple[TorchEngine, EngineSettings]]:
    fields = {"kv_tokens": 256, **more}
    settings = tiny_settings(
        kv_events=f"ipc://{sockets}/events",
        kv_events_replay=f"ipc://{sockets}/replay",
        **fields,  # type: ignore[arg-type]
    )
    engine = await open_engine(str(folder), settings)
    assert isinstance(engine, TorchEngine)
    try:
        yield engine, settings
    finally:
        await engine.aclose()


async def ask(engine: TorchEngine, prompt: tuple[int, ...]) -> None:
    request = GenerateRequest(prompt=prompt, max_tokens=4, ignore_end=True)
    with anyio.fail_after(30):
        async with aclosing(engine.generate(request)) as items:
            async for _ in items:
                pass


@pytest.mark.parametrize("host", [0, 10**6])
async def test_stored_and_removed_blocks_are_told(
    folder: Path, socket_dir: Path, readers: Readers, host: int
) -> None:
    async with opened(folder, socket_dir, kv_host_bytes=host) as (engine, settings):
        reader = readers(engine, settings)
        await ask(engine, ONE)
        await until(lambda: reader.held(ONE) == 160)
        await ask(engine, TWO)
        await until(lambda: reader.held(TWO) == 160)
        assert 0 < reader.held(ONE) < 160
        assert (
            reader.held(ONE)
            == engine._runner._index.match_length(engine._namespace(""), ONE) // 16 * 16
        )
        everywhere = reader.hints.overlaps(ONE, salt=reader.salt)["a"].tokens
        assert everywhere == (160 if host else reader.held(ONE))
        assert engine._loaded.kv_events == []
        assert reader.view.missing is None
        assert reader.subscriber.malformed == reader.view.unplaced == 0


async def test_what_a_reader_missed_is_told_again(
    folder: Path, socket_dir: Path, readers: Readers
) -> None:
    async with opened(folder, socket_dir) as (engine, settings):
        await ask(engine, ONE)  # nobody reads yet
        reader = readers(engine, settings)
        await until(lambda: reader.held(ONE) == 160)
        feed = engine._computation.feed
        assert feed is not None
        send = feed._publisher._pub.send_multipart
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(feed._publisher, "_pub", Deaf())
            await ask(engine, TWO)
        assert not reader.held(TWO)
        assert send == feed._publisher._pub.send_multipart
        await ask(engine, ONE)
        await until(lambda: reader.held(ONE) == 160 and reader.view.missing is None)
        assert 0 < reader.held(TWO) < 160


class Deaf:
    """A socket that loses what is sent."""

    def send_multipart(self, frames: list[bytes]) -> None:
        pass


async def test_token_ids_do_not_leave_the_host(folder: Path, socket_dir: Path) -> None:
    settings = tiny_settings(
        kv_events="tcp://0.0.0.0:5557", kv_events_replay=f"ipc://{socket_dir}/replay"
    )
    with pytest.raises(ConfigError, match="kv events"):
        await open_engine(str(folder), settings)


async def test_a_model_that_is_not_there_leaves_no_socket(socket_dir: Path) -> None:
    with pytest.raises(Exception, match="nowhere"):
        async with opened(Path("/nowhere"), socket_dir):
            pass
