from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from agentbus import Agent, Bus, Call, handler
from agentbus.cli.logs import configure_logging
from agentbus.config import LogSettings
from agentbus.errors import HandlerFailed


@pytest.fixture
def root() -> Iterator[None]:
    """Put the process's logging back as it was."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers, logger.level = handlers, level


@pytest.mark.usefixtures("root")
def test_lines_are_objects(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(format="json", level="info"))
    logger = logging.getLogger("agentbus")
    logger.debug("unseen")
    logger.info("the link to %s ended", "b", extra={"trace_id": "ab", "bytes": 3})
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "info",
        "logger": "agentbus",
        "event": "the link to b ended",
        "trace_id": "ab",
        "bytes": 3,
    }


@pytest.mark.usefixtures("root")
def test_half_a_character_costs_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(format="json"))
    logging.getLogger("agentbus").warning("a handler raised %s", "\ud800")
    assert json.loads(capsys.readouterr().err)["event"] == "a handler raised \ud800"


@pytest.mark.usefixtures("root")
def test_lines_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings())
    logging.getLogger("agentbus").info("unseen")
    logging.getLogger("agentbus").warning("seen")
    assert capsys.readouterr().err.endswith(" WARNING agentbus: seen\n")


@pytest.mark.usefixtures("root")
def test_a_line_is_no_command_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings())
    logging.getLogger("agentbus").warning("a handler raised %s", "\x1b[2J\r\x9b1A")
    assert capsys.readouterr().err.endswith("raised \u241b[2J\u240d\ufffd1A\n")


class Failing(Agent):
    @handler
    async def fail(self, secret: str, call: Call) -> str:
        raise ValueError("no")


@pytest.mark.anyio
@pytest.mark.usefixtures("root")
async def test_a_failed_handler_has_its_trace_and_no_payload(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogSettings(format="json"))
    async with Bus.open() as bus:
        await bus.spawn(Failing, name="failing")
        with pytest.raises(HandlerFailed):
            await bus.request("failing", "hunter2")
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert len(bytes.fromhex(found["trace_id"])) == 16
    assert found["traceback"].endswith("ValueError: no")
    assert "hunter2" not in line
