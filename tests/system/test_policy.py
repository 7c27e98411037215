"""A policy in agentbus.toml, as the commands live with it: tokens, keys, explanations, reloading."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import anyio
import pytest

from .processes import TIMEOUT, agent, finished, running, url_of, worker

pytestmark = [pytest.mark.anyio, pytest.mark.promise("peer.may")]

RULES = """
[[acl.rules]]
who = ["token:host"]
allow = ["register"]
on = ["adder"]

[[acl.rules]]
who = ["token:user"]
allow = ["request", "list", "admin"]
on = [">"]

[[acl.rules]]
who = ["token:user"]
deny = ["request"]
on = ["WHAT"]
"""
QUESTION = '{"numbers": [1, 2]}'


async def token(folder: Path, name: str) -> tuple[str, str]:
    """Make a token; returns its file, and what the settings are to say of it."""
    file = str(folder / f"{name}.token")
    status, output, errors = await finished("keys", "token", name, "--file", file)
    assert status == 0, errors
    return file, output


async def test_a_policy_holds_and_is_read_anew(socket_dir: Path, tmp_path: Path) -> None:
    host, of_host = await token(tmp_path, "host")
    user, of_user = await token(tmp_path, "user")
    config, url = tmp_path / "agentbus.toml", url_of(socket_dir)
    config.write_text(of_host + of_user + RULES.replace("WHAT", "other"))
    up = ["up", "--bus", url, "--config", str(config), "--log", "json"]
    ask = ["call", "adder", QUESTION, "--bus", url, "--token", user, "--json"]
    async with running(up) as [command]:
        status, _, errors = await finished(*worker(url, agent("subber", "Adder"), "--token", host))
        assert status == 1
        assert "+token:host may not register 'subber'" in errors
        async with running(worker(url, agent("adder", "Adder"), "--token", host)):
            status, output, errors = await finished(*ask)
            assert status == 0, errors
            assert json.loads(output)["value"]["total"] == 3
            # Who comes without a token is nobody here.
            status, output, _ = await finished(
                "call", "adder", QUESTION, "--type", "tests.system.agents:Sum", "--bus", url
            )
            assert (status, output) == (1, "")
            for look in (["top", "--once"], ["trace"]):
                status, output, errors = await finished(*look, "--bus", url)
                assert (status, output) == (1, "")
                assert "with an [acl] that takes admin" in errors
                status, _, errors = await finished(*look, "--bus", url, "--token", user)
                assert status == 0, errors
            config.write_text("[acl]\nrules = 3")
            command.process.send_signal(signal.SIGHUP)
            status, _, errors = await finished(*ask)
            assert status == 0, errors  # with an error in the file, the old rules hold on
            config.write_text(of_host + of_user + RULES.replace("WHAT", "adder"))
            with anyio.fail_after(TIMEOUT):
                while status != 1 or "token:user may not request 'adder'" not in errors:
                    command.process.send_signal(signal.SIGHUP)
                    status, _, errors = await finished(*ask[:-1])
            explained = errors.partition("`agentbus ")[2].partition("`")[0].replace("'", "")
            status, output, _ = await finished(*explained.split(), "--config", str(config))
            assert status == 1
            assert "line 16) denies it" in output
        assert await command.terminate() == 0
        said = await command.errors()
    assert "the policy stays as it was" in said
    assert "acl.rules: input should be a valid array" in said
    for file in (host, user):
        assert (await anyio.Path(file).read_text()).strip() not in said


async def test_workers_meet_over_tcp_under_a_policy(tmp_path: Path) -> None:
    users = tmp_path / "users"
    for name, folder in (("broker", tmp_path), ("ann", users), ("bob", users)):
        status, _, errors = await finished("keys", "new", name, "--folder", str(folder))
        assert status == 0, errors
    config = tmp_path / "agentbus.toml"
    config.write_text(
        "[[acl.rules]]\nwho = ['key:bob']\nallow = ['register']\non = ['adder']\n"
        "[[acl.rules]]\nwho = ['key:ann']\nallow = ['request', 'list', 'admin']\non = ['>']\n"
    )
    up = ["up", "--bus", "ab://127.0.0.1:0", "--keys", str(tmp_path / "broker.key_secret")]
    up += ["--authorized", str(users), "--config", str(config)]

    def of(name: str) -> list[str]:
        secret = str(users / f"{name}.key_secret")
        return ["--keys", secret, "--server-key", str(tmp_path / "broker.key")]

    async with running(up) as [broker]:
        url = broker.ready
        listening = ["--listen", "ab://127.0.0.1:0", "--authorized", str(users)]
        async with running(worker(url, agent("adder", "Adder"), *of("bob"), *listening)):
            call = ["call", "adder", QUESTION, "--bus", url, "--json"]
            status, output, errors = await finished(*call, *of("ann"))
            assert status == 0, errors
            answer = json.loads(output)
            assert (answer["value"]["total"], answer["account"]["transport"]) == (3, "tcp")
            status, _, errors = await finished("ps", "--bus", url, *of("bob"), "--json")
            assert status == 0, errors
        await broker.terminate()
