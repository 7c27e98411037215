"""What a filter wrote and cannot be read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import AgentbusError

__all__ = ["FilterError", "FormBroken"]


class FilterError(AgentbusError):
    """A filter cannot do what was asked."""


@dataclass(eq=False)
class FormBroken(FilterError):
    """A text is not what a form writes, or refers to what is not there."""

    code: ClassVar[str] = "form_broken"
    form: str
    problem: str

    def __str__(self) -> str:
        return f"this is no text in the form {self.form}: {self.problem}"
