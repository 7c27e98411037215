from __future__ import annotations

import pytest

from agentbus.context import TenantKey
from agentbus.errors import InvalidMessage


def test_half_a_character_is_refused() -> None:
    context = TenantKey().empty()
    with pytest.raises(InvalidMessage, match="half a character"):
        context.user("\ud83d")
    with pytest.raises(InvalidMessage, match="half a character"):
        context.message("\ud83d", "text")
    assert context.user("\N{GRINNING FACE}").length == 1
