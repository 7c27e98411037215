"""The settings file: what it may say, and what is said where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentbus.cli.settings import MAX_FILE, find_settings_file, load_settings, override
from agentbus.config import BusSettings, DaemonSettings, Limits, LogSettings
from agentbus.errors import ConfigError, UnreadableFile

GOOD = """
listen = "unix:///run/me/bus.sock"
metrics = "off"
drain_timeout = 3

[bus]
mailbox = 7
busy_poll = 0
limits.frame = 1048576

[log]
format = "json"
level = "info"
"""

WRONG = {
    "a = 1": "line 1: a: unknown key",
    "[bus]\n\nmailbx = 3": "line 3: bus.mailbx: unknown key; did you mean mailbox?",
    "[bus]\nmailbox = 0": "line 2: bus.mailbox: must be greater than 0 and finite, not 0",
    "[bus]\nmailbox = 1.5": "line 2: bus.mailbox: input should be a valid integer",
    "[bus]\nmailbox = '3'": "line 2: bus.mailbox: input should be a valid integer",
    "[bus]\nmailbox = true": "line 2: bus.mailbox: input should be a valid integer",
    "[bus]\ndefault_deadline = inf": "line 2: bus.default_deadline: input should be a valid number",
    "[bus.limits]\nfram = 3": "line 2: bus.limits.fram: unknown key; did you mean frame?",
    "[bus.limits]\nframe = -1": "line 2: bus.limits.frame: must be greater than 0",
    "bus.limits.frame = 0": "line 1: bus.limits.frame: must be greater than 0",
    "bus = { mailbox = 0 }": "bus.mailbox: must be greater than 0",
    "bus = 3": "line 1: bus: input should be an object",
    "[log]\nlevel = 'loud'": "line 2: log.level: input should be 'debug', 'info', 'warning' or",
    "drain_timeout = -1": "line 1: drain_timeout: must be greater than 0",
    "[bus": "this is not TOML: Expected ']'",
    f"[bus]\nmailbox = {10**30}": "a value is out of range",
}


def test_a_file_becomes_settings(tmp_path: Path) -> None:
    path = tmp_path / "agentbus.toml"
    path.write_text(GOOD)
    assert load_settings(path) == DaemonSettings(
        listen="unix:///run/me/bus.sock",
        metrics="off",
        drain_timeout=3.0,
        bus=BusSettings(mailbox=7, busy_poll=0.0, limits=Limits(frame=1048576)),
        log=LogSettings(format="json", level="info"),
    )
    path.write_text("")
    assert load_settings(path) == load_settings(None) == DaemonSettings()


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "agentbus.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    assert str(raised.value).startswith(str(path))
    assert WRONG[text] in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "agentbus.toml"
    for content in (None, b"\xff\xfe", b"#" * (MAX_FILE + 1)):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UnreadableFile, match=str(path)):
            load_settings(path)


def test_which_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGENTBUS_CONFIG", raising=False)
    assert find_settings_file("") is None
    Path("agentbus.toml").touch()
    assert find_settings_file("") == Path("agentbus.toml")
    monkeypatch.setenv("AGENTBUS_CONFIG", "/e.toml")
    assert find_settings_file("") == Path("/e.toml")
    assert find_settings_file("g.toml") == Path("g.toml")


def test_the_command_line_has_the_last_word() -> None:
    settings = DaemonSettings(listen="unix:///a", log=LogSettings(format="json"))
    said = override(
        settings, listen="", metrics="off", drain_timeout=0.0, format=None, level="info"
    )
    assert said == DaemonSettings(
        listen="unix:///a",
        metrics="off",
        drain_timeout=0.0,
        log=LogSettings(format="json", level="info"),
    )
    with pytest.raises(ConfigError, match="drain_timeout"):
        override(settings, drain_timeout=-1.0)
