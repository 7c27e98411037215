"""Filters by the names that rules give them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ..context import Earlier
from .base import Form
from .choose import JOINT, Reference, read_back
from .dedupe import Dedupe
from .diff import Diff
from .extract import Extract
from .fold import Fold
from .json_plain import PlainJSON, PlainJSONLines
from .json_value import CompactJSON
from .keep import tells_of_failure
from .lossy import Lossy
from .offload import Offload
from .plan import Use
from .rank import Ranker
from .strip import Strip
from .yaml_block import YAML

__all__ = ["FORMS", "LOSSLESS", "REFERENCES", "is_kept", "is_lossless", "open_lossy"]

FORMS: Final[Mapping[str, tuple[Form, ...]]] = MappingProxyType(
    {
        "json": (CompactJSON(), PlainJSON(), PlainJSONLines()),
        "fold": (Fold(),),
        "yaml": (YAML(),),
    }
)
"""Forms of a text alone of which nothing is lost, in order of preference."""
LOSSLESS: Final[tuple[Form, ...]] = (*FORMS["json"], *FORMS["fold"])
"""Those that are tried where no form is named: YAML takes more tokens than the other forms."""
REFERENCES: Final[Mapping[str, Reference]] = MappingProxyType({"dedupe": Dedupe(), "diff": Diff()})
"""Forms that refer to what was delivered before."""


def is_kept(text: str, written: str, form: str, earlier: Earlier) -> str:
    """Say what of a text was kept in a form: `bytes`, or its `value`; else nothing.

    Raises:
        FormBroken: it is not what the form writes.
    """
    every = [one for forms in FORMS.values() for one in forms]
    read, exact = read_back(written, form, every, tuple(REFERENCES.values()), earlier)
    if exact == "bytes":
        return exact if read == text else ""
    same = next(one for one in every if one.name == form.split(JOINT)[0])
    return exact if same.is_same(text, read) else ""


def is_lossless(form: str) -> bool:
    """Say whether nothing is lost in a form, or in two, whatever version of it."""
    return all(name.split("/")[0] in _LOSSLESS for name in form.split(JOINT))


def open_lossy(name: str, use: Use, ranker: Ranker | None = None) -> Lossy | None:
    """Return the filter of that name which leaves something out; None if there is none.

    `ranker` is for what depends on a question; BM25 if none is given.
    """
    if name == "extract":
        if ranker is None:
            return Extract(use.keep, must_keep=tells_of_failure)
        named = f"extract-{type(ranker).__name__.lower()}/2"
        return Extract(use.keep, ranker, tells_of_failure, named)
    return _LOSSY.get(name)


_LOSSLESS: Final = frozenset(
    name.split("/")[0]
    for name in (
        *(form.name for forms in FORMS.values() for form in forms),
        *(reference.name for reference in REFERENCES.values()),
    )
)
_LOSSY: Final[Mapping[str, Lossy]] = MappingProxyType({"strip": Strip(), "offload": Offload()})
