"""How tokens are chosen from a model's scores: the parameters, as servers name them."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError

__all__ = ["MAX_SEED", "MAX_TEMPERATURE", "MAX_TOP_K", "Sampling", "require_count"]

MAX_TEMPERATURE = 100.0
MAX_TOP_K = 1 << 20
MAX_SEED = (1 << 63) - 1

_RANGES = {
    "temperature": (0.0, MAX_TEMPERATURE),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The defaults choose the most probable one.

    Scores go through the penalties, then the temperature, then the cuts `min_p`, `top_k` and
    `top_p` in this order, each on what the one before left. Of equally probable tokens at a cut's
    edge, those with lower ids stay. A greedy choice heeds the penalties and no cut.

    Raises:
        ConfigError: a value is outside of its range.
    """

    temperature: float = 0.0
    """What scores are divided by; 0 takes the best one. To `MAX_TEMPERATURE`."""
    top_p: float = 1.0
    """Keep the fewest most probable tokens whose probabilities reach this sum (nucleus sampling,
    Holtzman et al. 2020). Over 0, to 1."""
    min_p: float = 0.0
    """Keep tokens at least this times as probable as the best one (Nguyen et al. 2024). 0 to 1."""
    top_k: int = 0
    """Keep this many of the most probable tokens; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Divides positive scores, and multiplies negative ones, of tokens that stand in the prompt or
    the answer (Keskar et al. 2019). Over 1 discourages them."""
    presence_penalty: float = 0.0
    """Taken from the scores of tokens that stand in the answer. -2 to 2."""
    frequency_penalty: float = 0.0
    """Taken from a token's score for each time it stands in the answer. -2 to 2."""
    seed: int | None = None
    """The same seed on the same prompt gives the same answer where scores are computed alike: in
    float32 whatever else runs; in bfloat16 their last bits depend on what of a prompt was cached,
    on what is computed beside it and on the number of threads. None takes another one for each
    call."""

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not _is_number(value) or not least <= value <= most:
                raise ConfigError(name, f"must be between {least:g} and {most:g}, not {value!r}")
        if self.top_p == 0:
            raise ConfigError("top_p", "must be over 0")
        require_count("top_k", self.top_k, MAX_TOP_K)
        if self.seed is not None:
            require_count("seed", self.seed, MAX_SEED)

    @property
    def cuts(self) -> bool:
        """Whether some tokens may not be drawn at all."""
        return self.top_p < 1 or self.min_p > 0 or self.top_k > 0

    @property
    def penalises(self) -> bool:
        """Whether what was read and said changes the scores."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def require_count(name: str, value: object, most: int) -> None:
    """Check that a parameter is a whole number from 0 on.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ConfigError(name, f"must be a whole number from 0 to {most}, not {value!r}")
