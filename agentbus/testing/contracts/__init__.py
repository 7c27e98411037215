"""What transports and engines must do, as tests to derive from. They need pytest.

`transport.LinkContract` and `engine.EngineContract` are what agentbus's own pass, too.
"""

from __future__ import annotations

import pytest

__all__: list[str] = []

# So that a test that fails says what the values were.
pytest.register_assert_rewrite(f"{__name__}.transport", f"{__name__}.engine", f"{__name__}.answers")
