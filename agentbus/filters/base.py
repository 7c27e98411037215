"""What lossless forms have in common.

A form writes a text in fewer tokens, such that its reader understands it without being told, and
reads it back. Forms are pure and deterministic: the same text gives the same bytes for ever, so what
is in a prompt's prefix stays as it is.
"""

from __future__ import annotations

from typing import Literal, Protocol

__all__ = ["Form"]


class Form(Protocol):
    """One way to write texts."""

    @property
    def name(self) -> str:
        """Its name and version, such as `json-compact/1`: a version writes the same for ever."""
        ...

    @property
    def exact(self) -> Literal["bytes", "value"]:
        """What reading back keeps."""
        ...

    def write(self, text: str) -> str | None:
        """Return the text in this form; None where the form is not for it.

        Takes time linear in the text, and any text.
        """
        ...

    def read(self, written: str) -> str:
        """Return the text that `write` was given, or one of equal value.

        Raises:
            FormBroken: `write` does not write this.
        """
        ...

    def is_same(self, text: str, read: str) -> bool:
        """Say whether nothing was lost of a text that was read back."""
        ...
