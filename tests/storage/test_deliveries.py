"""What filters delivered, in a file."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import msgpack
import pytest

from agentbus.context import Decision
from agentbus.errors import ConfigError
from agentbus.storage import DeliveryFile

ROOT = bytes(range(32))
VIEW = b"view"
CHANGED = Decision("short — ünïcode", "json-plain/1", "3 of 9 tokens fewer", 9, 6, ((1, 2), (5, 5)))
AS_IT_IS = Decision(None, "", "no filter is for it")


def test_decisions_outlast_the_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deliveries"
    book = DeliveryFile.open(path)
    book.put(ROOT, VIEW, CHANGED)
    book.put(ROOT, b"other", AS_IT_IS)
    book.close()
    book = DeliveryFile.open(path)
    assert book.get(ROOT, VIEW) == CHANGED
    assert book.get(ROOT, b"other") == AS_IT_IS
    assert book.get(ROOT, b"none") is None
    assert path.stat().st_mode & 0o777 == 0o600
    book.close()


def test_what_is_kept_stays(tmp_path: Path) -> None:
    book = DeliveryFile.open(tmp_path / "deliveries")
    book.put(ROOT, VIEW, CHANGED)
    book.put(ROOT, VIEW, AS_IT_IS)
    assert book.get(ROOT, VIEW) == CHANGED
    book.close()


def test_the_oldest_make_room(tmp_path: Path) -> None:
    book = DeliveryFile.open(tmp_path / "deliveries", max_decisions=10)
    keys = [number.to_bytes(32, "big") for number in range(1200)]
    for key in keys:
        book.put(key, VIEW, AS_IT_IS)
    assert book.get(keys[0], VIEW) is None
    assert book.get(keys[-1], VIEW) == AS_IT_IS
    held = sum(book.get(key, VIEW) is not None for key in keys)
    assert 10 <= held <= 1010
    book.close()


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deliveries"
    path.write_bytes(b"not a database" * 100)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="cannot be used"):
        DeliveryFile.open(path)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deliveries"
    path.touch(mode=0o644)
    os.chmod(path, 0o644)
    with pytest.raises(ConfigError, match="not this user's alone"):
        DeliveryFile.open(path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "deliveries").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot be used"):
        DeliveryFile.open(tmp_path / "deliveries")
    assert not (tmp_path / "elsewhere").exists()


def test_one_process_has_it_at_a_time(tmp_path: Path) -> None:
    book = DeliveryFile.open(tmp_path / "deliveries")
    with pytest.raises(ConfigError, match="locked"):
        DeliveryFile.open(tmp_path / "deliveries")
    book.close()


def rows_of(path: Path) -> list[tuple[bytes, bytes]]:
    connection = apsw.Connection(str(path))
    rows = list(connection.execute("SELECT key, decision FROM decisions"))
    connection.close()
    return rows


def write_row(path: Path, key: bytes, row: bytes) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("DELETE FROM decisions")
    connection.execute("INSERT INTO decisions (key, decision) VALUES (?, ?)", (key, row))
    connection.close()


def kept_in(path: Path) -> tuple[bytes, bytes]:
    """Keep one decision in a file, and return its row."""
    book = DeliveryFile.open(path)
    book.put(ROOT, VIEW, CHANGED)
    book.close()
    [(key, row)] = rows_of(path)
    return key, row


def test_a_damaged_decision_is_none(tmp_path: Path) -> None:
    path = tmp_path / "deliveries"
    key, row = kept_in(path)
    damaged = [row[:at] + bytes([row[at] ^ 1]) + row[at + 1 :] for at in range(len(row))]
    for other in (*damaged, b"", row[:4], row[:-1], row + b"x", msgpack.packb([1, 2])):
        write_row(path, key, other)
        book = DeliveryFile.open(path)
        assert book.get(ROOT, VIEW) is None
        book.close()


def test_a_decision_in_the_place_of_another_is_none(tmp_path: Path) -> None:
    path = tmp_path / "deliveries"
    _, row = kept_in(path)
    write_row(path, ROOT + b"other", row)
    book = DeliveryFile.open(path)
    assert book.get(ROOT, b"other") is None
    book.close()


def test_a_table_of_something_else_holds_no_decision(tmp_path: Path) -> None:
    path = tmp_path / "deliveries"
    path.touch(mode=0o600)
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE decisions (place INTEGER PRIMARY KEY, key, decision)")
    connection.execute("INSERT INTO decisions (key, decision) VALUES (?, 5)", (ROOT + VIEW,))
    no_text = "INSERT INTO decisions (key, decision) VALUES (?, CAST(x'ff' AS TEXT))"
    connection.execute(no_text, (ROOT + b"other",))
    connection.close()
    book = DeliveryFile.open(path)
    assert book.get(ROOT, VIEW) is None
    assert book.get(ROOT, b"other") is None
    book.close()


def test_a_file_that_cannot_be_written_fails_no_call(tmp_path: Path) -> None:
    book = DeliveryFile.open(tmp_path / "deliveries")
    book.close()
    book.put(ROOT, VIEW, CHANGED)
    assert book.get(ROOT, VIEW) is None
