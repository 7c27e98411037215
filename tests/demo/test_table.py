from __future__ import annotations

import orjson
import pytest
from rich.console import Console

from agentbus.demo.content import new_content
from agentbus.demo.script import Conversation
from agentbus.demo.table import sentences, side_by_side, to_json

from .helpers import comparison_of


def test_json_has_every_figure_the_readme_names(conversation: Conversation) -> None:
    found = orjson.loads(orjson.dumps(to_json(comparison_of(conversation))))
    assert list(found["ways"]) == ["plain", "agentbus"]
    for name, sent in (("plain", 2000), ("agentbus", 200)):
        way = found["ways"][name]
        assert way["hops"] == len(way["per_hop"]) == 4
        assert way["sent_bytes"] == 4 * sent
        assert way["sent_bytes_per_hop"] == sent
        assert way["received_bytes"] == 4 * 14
        assert way["tokens_prefilled"] == sum(h["tokens"]["prefilled"] for h in way["per_hop"])
        assert way["tokens_new"] == sum(h["tokens"]["new"] for h in way["per_hop"])
        assert way["prefilled_per_new"] == way["tokens_prefilled"] / way["tokens_new"]
        assert [leg["link"] for leg in way["per_hop"][0]["legs"]] == ["one", "two"]
    plain = found["ways"]["plain"]
    assert plain["tokens_reused"] == 0
    assert plain["ttft_p50_ms"] == pytest.approx(2500)
    assert plain["wall_s"] == pytest.approx(8)
    assert plain["per_hop"][3]["ttft_ms"] == pytest.approx(4000)
    assert found["equal_work"]["hops"] == 4


def test_the_table_shows_values_and_multiples(conversation: Conversation) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(side_by_side(comparison_of(conversation)))
    text = console.export_text()
    assert "2,500.0" in text
    assert "10.00×" in text
    assert text.count("1.00×") == 4


def test_good_figures_are_said(conversation: Conversation) -> None:
    tokens, latency, size, beside, equal = sentences(comparison_of(conversation))
    assert latency.startswith("Its first text came 1.6 times sooner than plain")
    assert size.startswith("It sent 10.0 times fewer than plain")
    assert tokens.startswith("agentbus prefilled") and "plain" in tokens
    assert "same 12 tokens in 4 hops" in equal
    least = min(new for hop in new_content(conversation) for new in hop)
    assert f"at most {100 - least} bytes longer" in beside


def test_bad_figures_are_said_too(conversation: Conversation) -> None:
    latency = sentences(comparison_of(conversation, ours_s=11.0))[1]
    assert latency.startswith("Its first text came 5.0 times later than plain")


def test_figures_that_are_alike_are_called_so(conversation: Conversation) -> None:
    latency = sentences(comparison_of(conversation, ours_s=1.01))[1]
    assert latency.startswith("Its first text came as soon as plain (")
