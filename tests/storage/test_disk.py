"""Blocks on a disk: whatever happens to a file, no wrong byte is ever returned."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentbus.errors import ConfigError, MisuseError
from agentbus.kv import BlockKey
from agentbus.storage import DiskBlocks, Kept, Rejection
from agentbus.storage.block_file import HEADER_BYTES, BlockFormat

SIZE = 40
FILE = HEADER_BYTES + SIZE
FINGERPRINT, SECRET = b"f" * 32, b"s" * 32
PAYLOAD = bytes(range(SIZE))


def key(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(32, "big"))


def opened(
    folder: Path, *, blocks: int = 4, fingerprint: bytes = FINGERPRINT, secret: bytes = SECRET
) -> DiskBlocks:
    return DiskBlocks.open(
        folder, fingerprint=fingerprint, secret=secret, block_bytes=SIZE, max_bytes=blocks * FILE
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blocks"


@pytest.fixture
def store(folder: Path) -> Iterator[DiskBlocks]:
    made = opened(folder)
    yield made
    made.close()


def path_of(folder: Path, number: int) -> Path:
    name = key(number).digest.hex()
    return folder / name[:2] / f"{name}.kv"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


def test_blocks_come_back_as_they_were(store: DiskBlocks) -> None:
    assert store.get(key(1)) is None
    assert store.put(key(1), memoryview(PAYLOAD)) == Kept(True)
    assert store.get(key(1)) == PAYLOAD
    assert store.put(key(1), PAYLOAD[::-1]) == Kept(True)
    assert store.get(key(1)) == PAYLOAD[::-1]
    store.remove(key(1))
    store.remove(key(1))
    assert store.get(key(1)) is None
    stats = store.stats()
    assert (stats.blocks, stats.bytes, stats.hits, stats.misses, stats.stored) == (0, 0, 2, 2, 2)


def test_only_this_user_can_enter(store: DiskBlocks, folder: Path) -> None:
    store.put(key(1), PAYLOAD)
    for path in (folder, path_of(folder, 1).parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path_of(folder, 1).stat().st_mode) == 0o600


def test_an_open_folder_is_closed_to_others(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    opened(folder).close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_least_recently_used_go_first(store: DiskBlocks, folder: Path) -> None:
    for number in range(4):
        store.put(key(number), PAYLOAD)
    store.get(key(0))
    assert store.put(key(9), PAYLOAD) == Kept(True, (key(1),))
    assert store.keys() == [key(2), key(3), key(0), key(9)]
    assert len(files(folder)) == 4
    assert sum(path.stat().st_size for path in files(folder)) == store.stats().bytes == 4 * FILE


def test_blocks_outlive_the_process_in_their_order(folder: Path) -> None:
    store = opened(folder)
    for number in range(4):
        store.put(key(number), PAYLOAD)
        os.utime(path_of(folder, number), ns=(number, number))
    store.get(key(0))
    store.close()
    store = opened(folder, blocks=3)
    assert store.keys() == [key(2), key(3), key(0)]
    assert store.get(key(3)) == PAYLOAD
    assert len(files(folder)) == 3
    store.close()


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_a_byte_that_changed_is_never_accepted(store: DiskBlocks, folder: Path, bit: int) -> None:
    path = path_of(folder, 1)
    for position in range(FILE):
        store.put(key(1), PAYLOAD)
        data = bytearray(path.read_bytes())
        data[position] ^= bit
        path.write_bytes(data)
        assert store.get(key(1)) is None, f"byte {position}"
        assert not path.exists()
        assert store.keys() == []
    assert sum(store.stats().rejected.values()) == store.stats().misses == FILE


def test_a_file_of_another_length_is_never_accepted(store: DiskBlocks, folder: Path) -> None:
    path = path_of(folder, 1)
    for length in (*range(FILE), FILE + 1, 2 * FILE):
        store.put(key(1), PAYLOAD)
        path.write_bytes((path.read_bytes() * 2)[:length])
        assert store.get(key(1)) is None, f"{length} bytes"
        assert not path.exists()
    assert store.stats().rejected == {Rejection.SIZE: FILE + 2}


def test_a_huge_file_is_not_read(store: DiskBlocks, folder: Path) -> None:
    store.put(key(1), PAYLOAD)
    os.truncate(path_of(folder, 1), 2**40)  # sparse; reading it would take all memory
    assert store.get(key(1)) is None
    assert not path_of(folder, 1).exists()


def write_as(folder: Path, target: int, *, fingerprint: bytes, secret: bytes, source: int) -> None:
    form = BlockFormat(fingerprint=fingerprint, secret=secret, block_bytes=SIZE)
    form.write(path_of(folder, target), key(source), PAYLOAD)


@pytest.mark.parametrize(
    ("fingerprint", "secret", "source", "reason"),
    [
        (b"g" * 32, SECRET, 1, Rejection.FINGERPRINT),
        (FINGERPRINT, b"t" * 32, 1, Rejection.CHECKSUM),
        (FINGERPRINT, SECRET, 2, Rejection.KEY),
    ],
)
def test_a_good_file_of_another_model_secret_or_block_is_a_miss(
    store: DiskBlocks,
    folder: Path,
    fingerprint: bytes,
    secret: bytes,
    source: int,
    reason: Rejection,
) -> None:
    write_as(folder, 1, fingerprint=fingerprint, secret=secret, source=source)
    assert store.get(key(1)) is None
    assert store.stats().rejected == {reason: 1}
    assert files(folder) == []
    write_as(folder, 1, fingerprint=FINGERPRINT, secret=SECRET, source=1)
    assert store.get(key(1)) == PAYLOAD


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    form = BlockFormat(fingerprint=FINGERPRINT, secret=SECRET, block_bytes=SIZE)
    form.write(path.with_name("elsewhere"), key(1), PAYLOAD)
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("make", [make_folder, make_pipe, make_link])
def test_what_is_no_file_is_a_miss_and_does_not_block(
    store: DiskBlocks, folder: Path, make: Callable[[Path], None]
) -> None:
    make(path_of(folder, 1))
    assert store.get(key(1)) is None
    assert sum(store.stats().rejected.values()) == 1


class DiskFull(OSError):
    pass


@pytest.mark.pure
@pytest.mark.parametrize("writes", range(4))
def test_a_crash_while_writing_leaves_no_wrong_block(
    folder: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """The process dies after so many writes of 60 bytes, or before the file gets its name."""
    store = opened(folder)
    store.put(key(1), PAYLOAD)
    real, done = os.write, [0]

    class Killed(BaseException):
        pass

    def write(descriptor: int, data: memoryview) -> int:
        if done[0] == writes:
            raise Killed
        done[0] += 1
        return real(descriptor, data[:60])

    def replace(source: Path, target: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        patch.setattr(os, "replace", replace)
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        with pytest.raises(Killed):
            store.put(key(1), PAYLOAD[::-1])
    store.close()
    assert len(files(folder)) == 2
    store = opened(folder)
    assert store.get(key(1)) == PAYLOAD  # as it was before
    assert store.stats().rejected == {Rejection.UNFINISHED: 1}
    assert len(files(folder)) == 1
    store.close()


@pytest.mark.pure
def test_a_full_disk_is_no_error(
    store: DiskBlocks, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(key(1), PAYLOAD)

    def write(descriptor: int, data: memoryview) -> int:
        raise DiskFull

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        assert store.put(key(1), PAYLOAD[::-1]) == Kept(False)
        assert store.put(key(2), PAYLOAD) == Kept(False)
    assert files(folder) == []
    assert store.get(key(1)) is None
    assert store.stats().failed == 2
    assert store.put(key(2), PAYLOAD) == Kept(True)


def test_strange_files_are_deleted_on_opening(folder: Path) -> None:
    opened(folder).close()
    name = path_of(folder, 1)
    for strange in (
        name.with_name("x.kv"),
        name.with_name(name.stem),
        folder / "01" / name.name,  # in another shard than its name's
        name.with_suffix(".kv.0123.tmp"),
        path_of(folder, 2),  # empty
    ):
        strange.write_bytes(b"")
    store = opened(folder)
    assert (store.keys(), files(folder)) == ([], [])
    assert sum(store.stats().rejected.values()) == 5
    store.close()


def test_one_process_at_a_time(folder: Path) -> None:
    store = opened(folder)
    with pytest.raises(ConfigError, match="another engine uses it"):
        opened(folder)
    store.close()
    store.close()
    opened(folder).close()


def test_a_folder_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="kv folder"):
        opened(tmp_path / "file")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "07").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="link"):
        opened(linked)


def test_a_disk_that_cannot_be_read_is_said_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scandir(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        with pytest.raises(ConfigError, match=r"cannot be used .Input/output error"):
            opened(folder)
    opened(folder).close()  # nobody holds it


def test_misuse_is_refused(store: DiskBlocks, tmp_path: Path) -> None:
    with pytest.raises(MisuseError):
        store.put(key(1), PAYLOAD[:-1])
    with pytest.raises(MisuseError):
        opened(tmp_path, blocks=0)
    with pytest.raises(MisuseError):
        opened(tmp_path, secret=b"short")
