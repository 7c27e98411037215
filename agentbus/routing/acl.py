"""Who may do what: rules, and decisions that explain themselves. Pure; enforces nothing.

A principal is a set of identities: the key, token or user that a process joined with, and the agent
of that process that acts. A rule fits a principal if each part of one of its `who` fits one of these
identities. A rule that denies wins over all that allow; what no rule allows is denied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..config import AclSettings, RuleSettings
from ..errors import ConfigError, InvalidName
from ..names import check_pattern

__all__ = [
    "ADMIN",
    "LIST",
    "OPERATIONS",
    "PUBLISH",
    "REGISTER",
    "REQUEST",
    "SUBSCRIBE",
    "Decision",
    "Policy",
    "Rule",
    "covers",
    "covers_tokens",
    "overlaps",
    "principal_of",
]

REQUEST = "request"
"""Ask the agent."""
PUBLISH = "publish"
"""Publish on the topic."""
SUBSCRIBE = "subscribe"
"""Get what is published on topics that fit the pattern."""
REGISTER = "register"
"""Have an agent of that name."""
LIST = "list"
"""See that the agent is on the bus."""
ADMIN = "admin"
"""Ask how the process of that name is, and what its agents handle."""
OPERATIONS = (REQUEST, PUBLISH, SUBSCRIBE, REGISTER, LIST, ADMIN)

ANY = "*"
_KINDS = frozenset(["key", "token", "uid", "agent"])


def covers(pattern: str, subject: str) -> bool:
    """Tell whether `pattern` fits all that `subject` fits; a subject without wildcards, itself."""
    return covers_tokens(pattern.split("."), subject.split("."))


def covers_tokens(wide: Sequence[str], narrow: Sequence[str]) -> bool:
    """As `covers`, of a pattern and a subject that are split at their dots."""
    for at, token in enumerate(wide):
        if token == ">":
            return len(narrow) > at
        if at >= len(narrow) or narrow[at] == ">" or token not in (ANY, narrow[at]):
            return False
    return len(wide) == len(narrow)


def overlaps(pattern: str, subject: str) -> bool:
    """Tell whether anything fits both patterns."""
    one, other = pattern.split("."), subject.split(".")
    for a, b in zip(one, other, strict=False):
        if ">" in (a, b):
            return True
        if ANY not in (a, b) and a != b:
            return False
    return len(one) == len(other)


def principal_of(text: str) -> tuple[str, ...]:
    """Read a principal as errors and `acl explain` write it: identities joined by `+`.

    Raises:
        ConfigError: it is none.
    """
    identities = tuple(text.split("+"))
    for identity in identities:
        kind, colon, name = identity.partition(":")
        if not (colon and name) or kind not in _KINDS:
            raise ConfigError("principal", f"{identity!r} is not one of {_forms()}")
    return identities


def _forms() -> str:
    return "key:NAME, token:NAME, uid:NUMBER, agent:NAME"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, checked."""

    number: int
    """From 1, in the order of the settings."""
    place: str
    """Where it stands; empty if that is not known."""
    allows: bool
    operations: frozenset[str]
    who: tuple[tuple[str, ...], ...]
    """Alternatives, each of parts that must all fit."""
    on: tuple[str, ...]

    def __str__(self) -> str:
        return f"rule {self.number}" + (f" ({self.place})" if self.place else "")

    def concerns(self, principal: Sequence[str], operation: str, subject: str) -> bool:
        """Tell whether it says something about that.

        One that denies concerns all that it overlaps with, one that allows what it covers.
        """
        if operation not in self.operations:
            return False
        fits = covers if self.allows else overlaps
        return any(fits(pattern, subject) for pattern in self.on) and any(
            all(_held(part, principal) for part in parts) for parts in self.who
        )


def _held(part: str, principal: Sequence[str]) -> bool:
    if part == ANY:
        return True
    kind, _, pattern = part.partition(":")
    for identity in principal:
        own, _, name = identity.partition(":")
        if own == kind and covers(pattern, name):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether somebody may do something, and why."""

    principal: str
    operation: str
    subject: str
    allowed: bool
    rule: Rule | None
    """The rule that decided; None if none did."""

    @property
    def why(self) -> str:
        """Say which rule decided."""
        if self.rule is None:
            return "no rule allows it"
        return f"{self.rule} {'allows' if self.allowed else 'denies'} it"


class Policy:
    """Rules in order. Takes each decision anew; who enforces it keeps what it got."""

    __slots__ = ("_rules",)

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)

    @staticmethod
    def of(settings: AclSettings, place: Callable[[int], str] = lambda _: "") -> Policy:
        """Read rules; `place` tells where the one at an index, from 0, stands.

        Raises:
            ConfigError: a rule is not well formed; it names the key, as in `acl.rules.0.who`.
        """
        return Policy(_rule(at, rule, place(at)) for at, rule in enumerate(settings.rules))

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in order."""
        return self._rules

    def decide(self, principal: Sequence[str], operation: str, subject: str) -> Decision:
        """Return whether a principal may do `operation` on `subject`, and why."""
        allowing: Rule | None = None
        text = "+".join(principal)
        for rule in self._rules:
            if not (rule.allows and allowing) and rule.concerns(principal, operation, subject):
                if not rule.allows:
                    return Decision(text, operation, subject, allowed=False, rule=rule)
                allowing = rule
        return Decision(text, operation, subject, allowed=allowing is not None, rule=allowing)


def _rule(at: int, settings: RuleSettings, place: str) -> Rule:
    key = f"acl.rules.{at}"
    if bool(settings.allow) == bool(settings.deny):
        raise ConfigError(key, "a rule has operations to allow or to deny, one of both")
    for name in ("who", "on"):
        if not getattr(settings, name):
            raise ConfigError(f"{key}.{name}", "name at least one")
    for pattern in settings.on:
        _check_pattern(f"{key}.on", pattern)
    operations = frozenset(settings.allow or settings.deny)
    return Rule(
        number=at + 1,
        place=place,
        allows=bool(settings.allow),
        operations=frozenset(OPERATIONS) if ANY in operations else operations,
        who=tuple(_parts(f"{key}.who", text) for text in settings.who),
        on=settings.on,
    )


def _parts(key: str, text: str) -> tuple[str, ...]:
    parts = tuple(text.split("+"))
    for part in parts:
        kind, colon, pattern = part.partition(":")
        if part == ANY:
            continue
        if not colon or kind not in _KINDS:
            raise ConfigError(key, f"{part!r} is neither '*' nor one of {_forms()}")
        _check_pattern(key, pattern)
    return parts


def _check_pattern(key: str, pattern: str) -> None:
    try:
        check_pattern(pattern)
    except InvalidName as error:
        raise ConfigError(key, str(error)) from error
