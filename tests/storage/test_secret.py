"""A folder's secret: made once, for this user alone."""

from __future__ import annotations

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


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(bytes(32))
    (tmp_path / "secret").symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError, match="cannot be used"):
        load_secret(tmp_path)
