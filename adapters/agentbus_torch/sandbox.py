"""Jinja's sandbox, with bounds on how long a template runs and on what it multiplies.

Jinja's own keeps a template from Python, but not from running for ever: it bounds one `range`, not
loops in loops, nor macros that call themselves twice. Here turns of loops and calls are counted,
and nothing is repeated or padded without bound. What doubles a text turn by turn still takes what
memory there is, until Python refuses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["MAX_NUMBER", "MAX_REPEATED", "MAX_STEPS", "MAX_WIDTH", "Sandbox", "bounded"]

MAX_STEPS = 500_000
"""Turns of loops and calls in one rendering; conversations take some ten a message."""
MAX_NUMBER = 1 << 64
"""Largest product of two numbers."""
MAX_REPEATED = 1 << 20
"""Longest text or list that is repeated."""
MAX_WIDTH = 100
"""Largest number that a filter of `_MEASURED` takes."""
_MAX_EXPONENT = 8
_PADDING = frozenset(["center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"])
_UNBOUNDED = _PADDING | {"encode", "sum", "to_bytes"}
"""Methods and filters that make a text of any length, or take any time; conversations need none."""
_MEASURED = ("batch", "indent", "round", "slice")
_NEEDLESS = ("cycler", "joiner", "lipsum")


class _Counting(CodeGenerator):
    """Has each loop of a template counted."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        for loop in node.find_all(nodes.For):
            if loop.recursive:
                raise TemplateSyntaxError("recursive loops are not supported", loop.lineno)
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None)
        super().visit_Template(node, frame)


class _Left(threading.local):
    """Steps that the rendering in this thread has left."""

    steps = MAX_STEPS


class Sandbox(ImmutableSandboxedEnvironment):
    """Where one model's template runs; `begin` is to be called before each rendering."""

    code_generator_class = _Counting
    intercepted_binops = frozenset(["*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self._left = _Left()
        self.filters["counted"] = self._counted
        for name in _NEEDLESS:
            del self.globals[name]
        for name in _UNBOUNDED & self.filters.keys():
            del self.filters[name]
        for name in _MEASURED:
            self.filters[name] = bounded(self.filters[name])

    def begin(self) -> None:
        """Count from the beginning, in this thread."""
        self._left.steps = MAX_STEPS

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call something for a template."""
        self._step()
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute what is among `intercepted_binops`."""
        if isinstance(left, str) and operator == "%":
            raise SecurityError("texts are not formatted here")
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        most = MAX_NUMBER if numbers else MAX_REPEATED
        if operator == "*" and _size(left) * _size(right) > most:
            raise SecurityError("a product is too large")
        if operator == "**" and (_size(left) > most or _size(right) > _MAX_EXPONENT):
            raise SecurityError("a power is too large")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Say whether a template may read an attribute."""
        if isinstance(obj, str | bytes | int) and attr in _UNBOUNDED:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Let `is_safe_attribute` decide."""
        return None

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._step()
            yield item

    def _step(self) -> None:
        self._left.steps -= 1
        if self._left.steps < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")


def bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that takes no number over `MAX_WIDTH` beside its value."""

    @wraps(function)
    def checked(value: Any, *args: Any, **kwargs: Any) -> Any:
        if any(
            isinstance(a, int | float) and abs(a) > MAX_WIDTH for a in (*args, *kwargs.values())
        ):
            raise SecurityError("a number is too large")
        return function(value, *args, **kwargs)

    return checked


def _size(operand: Any) -> float:
    return abs(operand) if isinstance(operand, int | float) else len(operand)
