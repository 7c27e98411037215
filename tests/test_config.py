from __future__ import annotations

import math
from typing import Any

import pytest

from agentbus import BusSettings, EngineSettings
from agentbus.config import FilterRule, Limits
from agentbus.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        (BusSettings, "mailbox", 0),
        (BusSettings, "default_deadline", math.inf),
        (BusSettings, "busy_poll", -1e-6),
        (Limits, "shared", 2**63),
        (Limits, "frame", 0),
        (EngineSettings, "threads", -1),
        (EngineSettings, "threads", None),
        (EngineSettings, "kv_tokens", "x"),
        (EngineSettings, "kv_tokens", 64.5),
        (EngineSettings, "prices", {"prompt": 1}),
        (EngineSettings, "threads", 10_000),
        (EngineSettings, "kv_tokens", 15),
        (EngineSettings, "block_size", 0),
        (EngineSettings, "kv_host_bytes", -1),
        (EngineSettings, "kv_disk_bytes", -1),
        (EngineSettings, "dtype", "int4"),
    ],
)
def test_what_cannot_work_is_refused_by_name(settings: Any, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use", "lossless"),
        ("use", ["lossless"]),
        ("use", None),
        ("use", ("gzip",)),
        ("use", (["json"],)),
        ("senders", "writer"),
        ("senders", ("db*",)),
        ("senders", ("db.>.x",)),
        ("senders", ("x" * 129,)),
        ("readers", None),
        ("readers", ("a",) * 65),
        ("kinds", "document"),
        ("kinds", ("tool_call",)),
        ("keep", "0.3"),
        ("keep", math.nan),
    ],
)
def test_what_is_no_filter_rule_is_refused_by_name(name: str, value: object) -> None:
    said: dict[str, Any] = {"use": ("json",), name: value}
    with pytest.raises(ConfigError, match=f"^{name}: "):
        FilterRule(**said)


@pytest.mark.parametrize("rules", [FilterRule(use=()), [FilterRule(use=())], ("json",), None])
def test_what_are_no_filter_rules_is_refused(rules: Any) -> None:
    with pytest.raises(ConfigError, match=r"^filters: "):
        BusSettings(filters=rules)


def test_polling_can_be_switched_off() -> None:
    assert BusSettings(busy_poll=0).busy_poll == 0


def test_a_disk_for_kv_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"^kv_dir: "):
        EngineSettings(kv_disk_bytes=1)
    EngineSettings(kv_disk_bytes=1, kv_dir="kv")


@pytest.mark.parametrize("name", ["kv_events", "kv_events_replay"])
def test_kv_events_need_both_ends(name: str) -> None:
    with pytest.raises(ConfigError, match="go together"):
        EngineSettings(**{name: "tcp://127.0.0.1:5557"})  # type: ignore[arg-type]
