"""`__all__` is true: each name exists, and each public package lists what it offers."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import agentbus


def public_modules() -> list[str]:
    found = pkgutil.walk_packages(agentbus.__path__, "agentbus.")
    return ["agentbus", *(module.name for module in found if "__main__" not in module.name)]


@pytest.mark.parametrize("name", public_modules())
def test_all_is_true(name: str) -> None:
    module = importlib.import_module(name)
    exported = module.__all__
    assert list(exported) == sorted(
        set(exported), key=lambda n: (not n.isupper(), n[0].islower(), n)
    )
    for attribute in exported:
        assert hasattr(module, attribute), f"{name}.__all__ names {attribute}, which is not there"


@pytest.mark.parametrize("name", public_modules())
def test_what_is_public_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    for attribute in module.__all__:
        value = getattr(module, attribute)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{name}.{attribute} has no docstring"
