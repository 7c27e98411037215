from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentbus.cli.app import app
from agentbus.errors import ConfigError, UnreadableFile
from agentbus.transport.zmq_keys import load_keys, public_keys


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def made(folder: Path, *names: str) -> Path:
    for name in names:
        assert invoke("keys", "new", name, "--folder", folder).exit_code == 0
    return folder


def test_new_keys_are_files_with_the_right_modes(tmp_path: Path) -> None:
    folder = made(tmp_path / "deep" / "keys", "ann")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"ann.key": 0o644, "ann.key_secret": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_keys_are_loaded_as_they_were_made(tmp_path: Path) -> None:
    folder = made(tmp_path, "ann", "bob.b")
    keys = load_keys(folder / "ann.key_secret", server=folder / "bob.b.key", authorized=folder)
    assert set(keys.authorized) == {"ann", "bob.b"}
    assert keys.public == keys.authorized["ann"]
    assert keys.server == keys.authorized["bob.b"]
    assert keys.secret not in repr(keys)


def test_a_public_key_is_not_taken_for_the_secret_one(tmp_path: Path) -> None:
    folder = made(tmp_path, "ann")
    with pytest.raises(UnreadableFile, match="it has no secret key; NAME"):
        load_keys(folder / "ann.key")


def test_show_lists_public_keys_only(tmp_path: Path) -> None:
    folder = made(tmp_path, "ann", "bob")
    shown = invoke("keys", "show", "--folder", folder, "--json")
    assert json.loads(shown.stdout) == public_keys(folder)
    text = invoke("keys", "show", "--folder", folder).stdout
    secret = load_keys(folder / "ann.key_secret").secret
    assert public_keys(folder)["ann"] in text
    assert secret not in text + shown.stdout


def test_keys_are_not_replaced(tmp_path: Path) -> None:
    folder = made(tmp_path, "ann")
    before = public_keys(folder)
    again = invoke("keys", "new", "ann", "--folder", folder)
    assert again.exit_code == 1
    assert "has keys of the name ann already" in again.stderr
    assert public_keys(folder) == before
    assert sorted(os.listdir(folder)) == ["ann.key", "ann.key_secret"]


def test_a_name_is_no_path(tmp_path: Path) -> None:
    refused = invoke("keys", "new", "../ann", "--folder", tmp_path)
    assert refused.exit_code == 1
    assert "not a valid name" in refused.stderr


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret = made(tmp_path, "ann") / "ann.key_secret"
    secret.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_keys(secret)


def test_another_users_secret_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = made(tmp_path, "ann") / "ann.key_secret"
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(ConfigError, match="another user"):
        load_keys(secret)


def test_files_that_hold_no_keys(tmp_path: Path) -> None:
    folder = made(tmp_path, "ann")
    own = folder / "ann.key_secret"
    for content in ("words", 'public-key = "abc"', 'public-key = "\u00fc"', "x" * 100_000):
        bad = tmp_path / "bad"
        bad.write_text(content, encoding="latin-1")
        with pytest.raises((UnreadableFile, ConfigError)) as caught:
            load_keys(own, server=bad)
        assert load_keys(own).secret not in str(caught.value)
    with pytest.raises(UnreadableFile):
        load_keys(tmp_path / "none")
    with pytest.raises(UnreadableFile):
        load_keys(own, authorized=tmp_path / "none")
    public = folder / "ann.key"
    public.chmod(0o600)
    with pytest.raises(UnreadableFile, match="no secret key"):
        load_keys(public)


@pytest.mark.parametrize(
    "command", [["up", "--bus", "ab://127.0.0.1:0"], ["ps", "--bus", "ab://127.0.0.1:1"]]
)
def test_tcp_without_keys_is_refused(command: list[str]) -> None:
    refused = invoke(*command)
    assert refused.exit_code == 1
    assert "agentbus keys new" in refused.stderr
