"""How fast an engine is, fitted to the calls that it has answered."""

from __future__ import annotations

from ..telemetry import ModelCost
from .worth import Costs

__all__ = ["Speed"]


class Speed:
    """Seconds for a token computed and a token decoded, and what tokens before it add to each.

    Least squares over all calls noted, in constant space. Calls that ran beside others shared the
    engine with them: what is measured then is what it took them, not the engine alone.
    """

    __slots__ = ("_decode", "_prefill")

    def __init__(self) -> None:
        self._prefill = _Fit()
        self._decode = _Fit()

    def note(self, call: ModelCost) -> None:
        """Note what one model call took."""
        computed = call.prefilled_tokens
        if computed:
            middle = call.prompt_tokens - computed / 2
            self._prefill.note(computed, computed * middle, call.prefill_s)
        if call.decoded_tokens:
            middle = call.prompt_tokens + call.decoded_tokens / 2
            self._decode.note(call.decoded_tokens, call.decoded_tokens * middle, call.decode_s)

    def costs(self) -> Costs | None:
        """Return the costs in seconds; None until a prompt was computed. A cached token costs 0."""
        prefill, prefill_behind = self._prefill.factors()
        decode, decode_behind = self._decode.factors()
        if not prefill:
            return None
        return Costs(
            prefill=prefill,
            prefill_behind=prefill_behind,
            decode=decode,
            decode_behind=decode_behind,
        )


class _Fit:
    """seconds = a·tokens + b·attended, neither of them negative."""

    __slots__ = ("_aa", "_ab", "_at", "_bb", "_bt")

    def __init__(self) -> None:
        self._aa = self._ab = self._bb = self._at = self._bt = 0.0

    def note(self, tokens: float, attended: float, seconds: float) -> None:
        self._aa += tokens * tokens
        self._ab += tokens * attended
        self._bb += attended * attended
        self._at += tokens * seconds
        self._bt += attended * seconds

    def factors(self) -> tuple[float, float]:
        if not self._aa:
            return 0.0, 0.0
        determinant = self._aa * self._bb - self._ab * self._ab
        if (
            determinant > 1e-9 * self._aa * self._bb
        ):  # calls of one length do not tell the two apart
            a = (self._at * self._bb - self._bt * self._ab) / determinant
            b = (self._bt * self._aa - self._at * self._ab) / determinant
            if a > 0 and b > 0:
                return a, b
        return self._at / self._aa, 0.0
