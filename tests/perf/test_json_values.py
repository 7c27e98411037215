"""Values that are compared are those of JSON as it is written."""

from __future__ import annotations

import pytest

from perf.macro.json_values import is_structure, same_values


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ('{"a": 1}', '{"a":1}', True),
        ('{"a": 1}', '{"a": 1.0}', False),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', False),
        ('{"a": 1, "a": 2}', '{"a": 2}', False),
        ('[["a", 1]]', '{"a": 1}', False),
        ("null\n", "null", True),
        ("[NaN]", "[ NaN ]", True),
        ("NaN", "NaN ", True),
        ("1\n2", "1\n 2", True),
        ("1\n2", "1\n3", False),
    ],
)
def test_same_values(one: str, other: str, *, is_same: bool) -> None:
    assert same_values(one, other) is is_same


def test_structures() -> None:
    assert is_structure("[]") and is_structure(" {} ")
    assert not is_structure("null") and not is_structure("1") and not is_structure("[")
