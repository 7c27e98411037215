"""A folder's secret: made once, for this user alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agentbus.errors import ConfigError
from agentbus.storage import load_secret


def test_it_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    secret = load_secret(folder)
    assert len(secret) == 32
    assert load_secret(folder) == secret
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == ["secret"]
    assert load_secret(tmp_path / "other") != secret


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_what_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError, match="delete the folder"):
        load_secret(tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_what_others_may_know_is_refused(tmp_path: Path, mode: int) -> None:
    load_secret(tmp_path)
    (tmp_path / "secret").chmod(mode)
    with pytest.raises(ConfigError, match="others may have"):
        load_secret(tmp_path)


def test_what_another_user_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted secret would make planted blocks good."""
    load_secret(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        load_secret(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_secret_that_another_user_planted_is_refused(tmp_path: Path) -> None:
    load_secret(tmp_path)
    os.chown(tmp_path / "secret", 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        load_secret(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """A folder of git's objects has the same shards."""
    precious = tmp_path / "ab" / "cdef"
    precious.parent.mkdir()
    precious.write_text("precious")
    with pytest.raises(ConfigError, match="choose a folder for this alone"):
        load_secret(tmp_path)
    assert precious.read_text() == "precious"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret")
    with pytest.raises(ConfigError, match="delete the folder"):
        load_secret(tmp_path)


def test_a_name_that_no_file_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        load_secret(tmp_path / "a\0b")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(bytes(32))
    (tmp_path / "secret").symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError, match="cannot be used"):
        load_secret(tmp_path)
