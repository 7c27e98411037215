"""Which agentbus is measured: the compiled one, if `make compiled` has built it, or the sources.

Compiled is how a wheel is shipped for a platform; see `hatch_build.py`. A build that is not of
these sources is refused, so that nobody measures what is not there any more.
"""

from __future__ import annotations

import filecmp
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

__all__ = ["BUILT", "is_compiled", "is_perf", "stale", "use_compiled"]

_ROOT = Path(__file__).resolve().parents[1]
BUILT = _ROOT / "build" / "compiled"
_PROFILE = "perf.profile"


def is_perf(argv: Sequence[str]) -> bool:
    """Tell whether a command line measures: runs this package, or one of its modules.

    A profile by samples of Python's stack does not: what is compiled is not on it.
    """
    for option, module in pairwise(argv):
        if option == "-m":
            return module.partition(".")[0] == "perf" and module != _PROFILE
    return False


def stale(built: Path, root: Path) -> list[str]:
    """Return the modules of `root` that `built` has not, or has otherwise."""
    names = [str(path.relative_to(root)) for path in sorted((root / "agentbus").rglob("*.py"))]
    _, other, missing = filecmp.cmpfiles(root, built, names, shallow=False)
    return sorted(other + missing)


def use_compiled() -> None:
    """Have `import agentbus` find the compiled one, if there is one and this is a measurement.

    Raises:
        SystemExit: it was built of other sources.
    """
    if not is_perf(sys.orig_argv) or not (BUILT / "agentbus").is_dir():
        return
    if changed := stale(BUILT, _ROOT):
        raise SystemExit(
            f"build/compiled is of other sources ({changed[0]} and {len(changed) - 1} more differ): "
            "run `make compiled` again, or remove build/compiled to measure the sources"
        )
    sys.path.insert(0, str(BUILT))


def is_compiled() -> bool:
    """Tell whether the agentbus that is imported here is compiled."""
    from agentbus import Call

    return not str(sys.modules[Call.__module__].__file__).endswith(".py")
