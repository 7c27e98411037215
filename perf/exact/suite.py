"""Suite `exactness`: the small model, token by token, against `transformers`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentbus.errors import EngineError

from ..children import ChildFailed
from ..report import Row, compare
from ..suite import Progress, Suite

if TYPE_CHECKING:
    from .run import Found

__all__ = ["SUITE", "rows_of"]

REFERENCE = "transformers_bfloat16"


async def run(peers: Sequence[str], *, quick: bool, progress: Progress) -> list[Row]:
    """Compare in both types and both batch sizes.

    Raises:
        ChildFailed: the model cannot be had, or a call failed.
    """
    # They import torch, which most suites do without.
    from agentbus.demo import load_default_document

    from ..small_model import small_model, tokens_of
    from .run import BATCHES, QUICK, WHOLE, compare_folder, windows_of

    folder = await small_model()
    tokens = tokens_of(folder)
    rows: list[Row] = []
    try:
        for dtype in ("float32", "bfloat16"):
            found = await compare_folder(
                folder,
                dtype=dtype,
                batches=BATCHES,
                size=QUICK if quick else WHOLE,
                source=windows_of(tokens.vocabulary.plain(load_default_document())),
                never=tokens.ends,
                threads=os.cpu_count() or 1,
                progress=progress,
            )
            rows += [row for one in found for row in rows_of(one)]
    except EngineError as error:
        raise ChildFailed(str(error)) from error
    return rows


def rows_of(found: Found) -> list[Row]:
    """Return what one batch size showed; what must be 0 has the unit `violations`."""
    verdict = found.verdict
    ours: dict[str, float] = {
        "checked_tokens": verdict.checked,
        "skipped_percent": 100 * verdict.skipped / verdict.checked,
        "differing_tokens": verdict.differing,
        **{f"{name}_violations": one.wrong for name, one in found.verdicts.items()},
        "reuse_violations": len(found.problems),
    }
    theirs: dict[str, dict[str, float]] = {}
    if found.drift is not None:
        ours["tolerance_score"] = 2 * found.drift.largest
        theirs[REFERENCE] = {"differing_tokens": found.drift.differing}
    return compare(SUITE.name, f"{found.dtype}_batch_{found.batch}", ours, theirs)


SUITE = Suite(
    name="exactness",
    peers=(),
    method=(
        "SmolLM2-135M-Instruct, prompts in five patterns of reuse, greedy; transformers scores the "
        "same tokens in float32. float32: the same choice wherever its two best scores are over "
        "0.001 apart; bfloat16: no choice loses more than twice what bfloat16 moves transformers' "
        "own scores, differing_tokens says how many choices differ, of transformers itself in the "
        "peer's column."
    ),
    run=run,
)
