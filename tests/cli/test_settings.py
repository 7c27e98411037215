"""The settings file: what it may say, and what is said where it is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.cli.settings import (
    MAX_FILE,
    find_settings_file,
    load_rules,
    load_settings,
    override,
)
from agentbus.config import (
    BusSettings,
    DaemonSettings,
    EngineSettings,
    Limits,
    LogSettings,
    Prices,
)
from agentbus.errors import ConfigError, UnreadableFile
from agentbus.routing import hash_token

GOOD = """
listen = "unix:///run/me/bus.sock"
metrics = "off"
drain_timeout = 3

[bus]
mailbox = 7
busy_poll = 0
limits.frame = 1048576

[engine]
dtype = "bfloat16"
kv_host_bytes = 1048576
prices.answer = 2

[log]
format = "json"
level = "info"
"""

RULES = "[bus]\nmailbox = 7\n[[bus.filters]]\nuse = ['mask']\nkeep = 0.5\n[[bus.filters]]\n"
"""A rule that is right, and where another one begins."""
NAMES = "must be up to 64 names; `*` stands for one part between dots, `>` at the end for the rest"

WRONG = {
    RULES + "use = ['gzip']": "line 7: bus.filters.1.use.0: input should be 'lossless', 'json', ",
    RULES + "use = 'json'": "line 7: bus.filters.1.use: input should be a valid array",
    RULES + "keep = 0.5": "line 6: bus.filters.1.use: field required",
    RULES + "use = ['json', 'json']": "line 7: bus.filters.1.use: names one twice",
    RULES + "use = ['extract']\nkeep = 30": "line 8: bus.filters.1.keep: must be between 0 and 1, ",
    RULES + "use = []\nsenders = ['db*']": f"line 8: bus.filters.1.senders: {NAMES}",
    RULES + "use = []\nsenders = ['>.x']": f"line 8: bus.filters.1.senders: {NAMES}",
    RULES + "use = []\nreaders = ['']": f"line 8: bus.filters.1.readers: {NAMES}",
    RULES + "use = []\nreader = ['a']": "line 8: bus.filters.1.reader: unknown key; did you mean r",
    RULES
    + "use = []\nkinds = ['tool']": "line 8: bus.filters.1.kinds.0: input should be 'document'",
    RULES + "use = ['mask']\nkinds = ['ask']": "line 8: bus.filters.1.kinds: must have tool_result",
    "[[bus.filters]]\nuse = []\n" * 65: "line 1: bus.filters: must be at most 64 rules",
    "[bus.filters]\nuse = []": "line 1: bus.filters: input should be a valid array",
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
    "[engine]\nkv_token = 3": "line 2: engine.kv_token: unknown key; did you mean kv_tokens?",
    "[engine]\ndtype = 'int8'": "line 2: engine.dtype: must be auto, float32 or bfloat16, not 'int8'",
    "[engine]\ndevice = 'gpu'": "line 2: engine.device: must be cpu, cuda or cuda:0, not 'gpu'",
    "[engine]\ndevice = 'cuda:01'": "line 2: engine.device: must be cpu, cuda or cuda:0, not 'cuda:01'",
    "[engine]\nthreads = '2'": "line 2: engine.threads: input should be a valid integer",
    "[engine]\nqueue = 9\nkv_disk_bytes = 1": "line 1: engine.kv_dir: is needed to keep KV blocks",
    "[engine]\nkv_events = 'ipc://a'": "line 2: engine.kv_events: and kv_events_replay go together",
    "[engine.prices]\nanswer = -1": "line 2: engine.prices.answer: must be 0 or more and finite",
    "engine.prices.reused = 1.0e999": "line 1: engine.prices.reused: input should be a valid number",
    "[log]\nlevel = 'loud'": "line 2: log.level: input should be 'debug', 'info', 'warning' or",
    "drain_timeout = -1": "line 1: drain_timeout: must be greater than 0",
    "[acl]\nruls = []": "line 2: acl.ruls: unknown key; did you mean rules?",
    "[[acl.rule]]\nwho = ['*']": "line 1: acl.rule: unknown key; did you mean rules?",
    "[acl]\nrules = 3": "line 2: acl.rules: input should be a valid array",
    "[[acl.rules]]\nwho = ['*']\nalow = ['*']\non = ['>']": (
        "line 3: acl.rules.0.alow: unknown key; did you mean allow?"
    ),
    "[[acl.rules]]\nwho = ['*']\nallow = ['*']\non = ['>']\n[[acl.rules]]\nwho = ['*']": (
        "line 5: acl.rules.1.on: field required"
    ),
    "[[acl.rules]]\nwho = ['*']\nallow = ['ask']\non = ['>']": (
        "line 3: acl.rules.0.allow.0: input should be 'request', 'publish', 'subscribe',"
    ),
    "[acl]\nrules = [\n{ who = ['bob'], allow = ['*'], on = ['>'] }]": (
        "line 2: acl.rules.0.who: 'bob' is neither '*' nor one of key:NAME"
    ),
    "[[acl.rules]]\nwho = ['key:*']\nallow = ['*']\non = ['a..b']": (
        "line 4: acl.rules.0.on: 'a..b' is not a valid name"
    ),
    "[[acl.rules]]\nwho = ['key:*']\non = ['>']": (
        "line 1: acl.rules.0: a rule has operations to allow or to deny, one of both"
    ),
    "[[acl.rules]]\nwho = []\ndeny = ['*']\non = ['>']": (
        "line 2: acl.rules.0.who: name at least one"
    ),
    "[tokens.ann]\nhash = 'abc'": "line 2: tokens.ann.hash: is 64 hexadecimal digits;",
    f"[tokens.ann]\nhash = '{'0' * 64}'\nexpire = 1": (
        "line 3: tokens.ann.expire: unknown key; did you mean expires?"
    ),
    f"[tokens.ann]\nhash = '{'0' * 64}'\nexpires = 2030-01-01T00:00:00": (
        "line 3: tokens.ann.expires: say the zone"
    ),
    f"[tokens.ann]\nhash = '{'0' * 64}'\n[tokens.bob]\nhash = '{'0' * 64}'": (
        "line 4: tokens.bob.hash: another token has the same hash"
    ),
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
        engine=EngineSettings(dtype="bfloat16", kv_host_bytes=1048576, prices=Prices(answer=2.0)),
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
    engine = EngineSettings(dtype="bfloat16", threads=2, kv_tokens=64)
    said = override(DaemonSettings(engine=engine), dtype="", threads=0, prices=None, token_log="a")
    assert said.engine == replace(engine, threads=0, token_log="a")
    with pytest.raises(ConfigError, match="drain_timeout"):
        override(settings, drain_timeout=-1.0)


RULES = """
[[acl.rules]]
who = ["key:ann", "token:ops.*"]
allow = ["request", "subscribe"]
on = ["reviewer", "news.>"]

[[acl.rules]]
who = ["key:ann+agent:writer"]
deny = ["*"]
on = ["payments"]

[tokens.ops]
hash = "HASH"
expires = 2999-01-31T12:00:00Z
"""


def test_rules_and_tokens_have_their_places(tmp_path: Path) -> None:
    path = tmp_path / "agentbus.toml"
    path.write_text(RULES.replace("HASH", hash_token("secret")))
    policy, tokens = load_rules(path)
    assert policy is not None
    assert [rule.place for rule in policy.rules] == [f"{path}, line 2", f"{path}, line 7"]
    assert tokens.find("secret", "bus", 0)[1] == "ops"
    decision = policy.decide(("key:ann", "agent:writer"), "request", "payments")
    assert decision.why == f"rule 2 ({path}, line 7) denies it"
    assert load_rules(None)[0] is None
    path.write_text("")
    assert load_rules(path)[0] is None
    path.write_text("[acl]")
    empty = load_rules(path)[0]
    assert empty is not None
    assert not empty.rules
