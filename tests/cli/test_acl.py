"""`agentbus acl explain`, and the tokens and keys that its principals are known by."""

from __future__ import annotations

import json
import stat
import time
import tomllib
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentbus.cli.app import app
from agentbus.cli.keys import read_token
from agentbus.cli.settings import load_rules
from agentbus.errors import ConfigError, UnreadableFile
from agentbus.routing import hash_token
from agentbus.transport.zmq_keys import load_keys

POLICY = """
[[acl.rules]]
who = ["key:ann"]
allow = ["request"]
on = ["reviewer", "news.>"]

[[acl.rules]]
who = ["agent:writer"]
deny = ["*"]
on = ["news.secret"]
"""


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agentbus.toml"
    path.write_text(POLICY)
    return path


def explain(config: Path, *arguments: str) -> Result:
    return invoke("acl", "explain", *arguments, "--config", config)


def test_what_is_allowed_is_explained(config: Path) -> None:
    allowed = explain(config, "key:ann", "request", "reviewer")
    assert allowed.exit_code == 0
    assert allowed.stdout == (
        f"key:ann may request 'reviewer': rule 1 ({config}, line 2) allows it.\n"
    )
    instance = explain(config, "key:ann", "request", "reviewer/ann")
    assert instance.exit_code == 0


def test_what_is_denied_is_explained_with_status_1(config: Path) -> None:
    nobody = explain(config, "uid:1000+token:bob", "publish", "news.sea")
    assert nobody.exit_code == 1
    assert nobody.stdout == ("uid:1000+token:bob may not publish 'news.sea': no rule allows it.\n")
    denied = explain(config, "key:ann+agent:writer", "request", "news.secret", "--json")
    assert denied.exit_code == 1
    assert json.loads(denied.stdout) == {
        "principal": "key:ann+agent:writer",
        "operation": "request",
        "subject": "news.secret",
        "allowed": False,
        "rule": 2,
        "place": f"{config}, line 7",
        "why": f"rule 2 ({config}, line 7) denies it",
    }


def test_what_cannot_be_explained_is_said(config: Path) -> None:
    for arguments, problem in (
        (("ann", "request", "a"), "'ann' is not one of key:NAME"),
        (("key:ann", "request", "a..b"), "is not a valid name"),
    ):
        refused = explain(config, *arguments)
        assert refused.exit_code == 1
        assert problem in refused.stderr
    assert explain(config, "key:ann", "ask", "a").exit_code == 2
    config.write_text("")
    nothing = explain(config, "key:ann", "request", "a")
    assert nothing.exit_code == 1
    assert "there is no [acl]" in nothing.stderr


# --- tokens


@pytest.mark.promise("peer.secret")
def test_a_token_is_in_its_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "ann.token"
    made = invoke("keys", "token", "ann", "--file", file, "--expires", "90d")
    assert made.exit_code == 0
    token = read_token(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token not in made.stdout
    config = tmp_path / "agentbus.toml"
    config.write_text(made.stdout)
    _, name, until = load_rules(config)[1].find(token, "bus", time.time())
    assert name == "ann"
    assert 89.9 < (until - time.time()) / 86400 <= 90
    again = invoke("keys", "token", "ann", "--file", file)
    assert again.exit_code == 1
    assert read_token(file) == token


def test_a_token_may_be_good_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = invoke("keys", "token", "team.ann", "--file", file, "--json")
    said = json.loads(made.stdout)
    assert said == {
        "name": "team.ann",
        "file": str(file),
        "hash": hash_token(read_token(file)),
        "expires": "",
    }
    plain = invoke("keys", "token", "team.ann", "--file", tmp_path / "other")
    assert list(tomllib.loads(plain.stdout)["tokens"]) == ["team.ann"]


@pytest.mark.parametrize("span", ["90", "0d", "-1d", "1w", "9999999d"])
def test_a_span_that_is_none_is_refused(tmp_path: Path, span: str) -> None:
    refused = invoke("keys", "token", "ann", "--file", tmp_path / "t", "--expires", span)
    assert refused.exit_code == 1
    assert "is not of the form 90d" in refused.stderr
    assert not (tmp_path / "t").exists()


def test_where_a_token_is_read_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTBUS_TOKEN", "agentbus-x")
    assert read_token(None) == "agentbus-x"
    monkeypatch.delenv("AGENTBUS_TOKEN")
    assert read_token(None) == ""
    file = tmp_path / "token"
    with pytest.raises(UnreadableFile):
        read_token(file)
    file.write_text("hunter2")
    file.chmod(0o600)
    with pytest.raises(UnreadableFile, match="no token of agentbus") as refused:
        read_token(file)
    assert "hunter2" not in str(refused.value)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token(file)


# --- keys that end


def test_keys_may_have_an_end(tmp_path: Path) -> None:
    for name, span in (("ann", ["--expires", "12h"]), ("bob", [])):
        assert invoke("keys", "new", name, "--folder", tmp_path, *span).exit_code == 0
    keys = load_keys(tmp_path / "ann.key_secret", authorized=tmp_path)
    assert set(keys.expires) == {"ann"}
    assert 11.9 < (keys.expires["ann"] - time.time()) / 3600 <= 12
    public = tmp_path / "bob.key"
    public.write_text(public.read_text() + "\n    expires = 2030-01-31T12:00:00Z\n")
    end = datetime.fromisoformat("2030-01-31T12:00:00+00:00").timestamp()
    assert load_keys(tmp_path / "ann.key_secret", authorized=tmp_path).expires["bob"] == end


@pytest.mark.parametrize("moment", ["soon", "2030-01-31T12:00:00", ""])
def test_an_end_that_is_no_moment_lets_nobody_start(tmp_path: Path, moment: str) -> None:
    assert invoke("keys", "new", "ann", "--folder", tmp_path).exit_code == 0
    public = tmp_path / "ann.key"
    public.write_text(public.read_text() + f"\n    expires = {moment}\n")
    with pytest.raises(UnreadableFile, match="its expiry is no moment"):
        load_keys(tmp_path / "ann.key_secret", authorized=tmp_path)
