"""A slow evaluator of policies, written apart from the policy, and the matrix that is asked of both.

It shares no code with what it judges: names are spelled out where the policy compares patterns.
"""

from __future__ import annotations

import itertools
import random
import re

from agentbus.config import Operation, RuleSettings

__all__ = ["OPERATIONS", "PRINCIPALS", "SEED", "SUBJECTS", "fits", "make_rules", "reference"]

TOKENS = ("a", "b", "c")
UNIVERSE = tuple(
    ".".join(tokens) for count in (1, 2, 3) for tokens in itertools.product(TOKENS, repeat=count)
)
"""All names of up to three tokens; patterns of the matrix are no longer than two."""


def fits(pattern: str, name: str) -> bool:
    """One pattern as a regular expression: slow, and nothing like a walk over tokens."""
    pieces = [
        {"*": r"[^.]+", ">": r"[^.]+(\.[^.]+)*"}.get(token, re.escape(token))
        for token in pattern.split(".")
    ]
    return re.fullmatch(r"\.".join(pieces), name) is not None


def reference(
    rules: tuple[RuleSettings, ...], principal: tuple[str, ...], operation: str, subject: str
) -> bool:
    """May it? Every rule is asked about every name that the subject stands for."""
    meant = [name for name in UNIVERSE if fits(subject, name)]
    allowed = False
    for rule in rules:
        if not any(operation == named or named == "*" for named in (*rule.allow, *rule.deny)):
            continue
        if not any(
            all(
                wanted == "*"
                or any(
                    wanted.split(":")[0] == held.split(":")[0]
                    and fits(wanted.split(":")[1], held.split(":")[1])
                    for held in principal
                )
                for wanted in who.split("+")
            )
            for who in rule.who
        ):
            continue
        if rule.deny:
            if any(fits(pattern, name) for pattern in rule.on for name in meant):
                return False
        elif any(all(fits(pattern, name) for name in meant) for pattern in rule.on):
            allowed = True
    return allowed


# --- the matrix

SEED = 20240917
OPERATIONS: tuple[Operation, ...] = (
    "request",
    "publish",
    "subscribe",
    "register",
    "list",
    "admin",
)
ALL: tuple[Operation, ...] = (*OPERATIONS, "*")
PRINCIPALS = (
    ("key:a",),
    ("key:b",),
    ("uid:1000",),
    ("key:a", "token:b"),
    ("uid:1000", "token:a"),
    ("key:a", "agent:a"),
    ("key:b", "agent:a.b"),
    ("uid:1000", "token:b", "agent:b"),
)
SUBJECTS = (
    "a",
    "b",
    "c",
    "a.a",
    "a.b",
    "b.a",
    "c.c",
    "a.b.c",
    "*",
    ">",
    "a.*",
    "a.>",
    "*.b",
    "b.>",
)
PATTERNS = ("a", "b", "*", ">", "a.b", "a.*", "*.b", "a.>", "c.>", "*.*")
WHO = (
    "*",
    "key:a",
    "key:*",
    "token:b",
    "uid:1000",
    "agent:a",
    "agent:>",
    "key:a+agent:a",
    "uid:*+token:a",
    "token:b+agent:*",
)


def make_rules(seed: int) -> tuple[RuleSettings, ...]:
    draw = random.Random(seed)
    rules = []
    for _ in range(draw.randint(2, 9)):
        operations = tuple(draw.sample(ALL, 2))
        denies = draw.random() < 0.3
        rules.append(
            RuleSettings(
                who=tuple(draw.sample(WHO, draw.randint(1, 2))),
                allow=() if denies else operations,
                deny=operations if denies else (),
                on=tuple(draw.sample(PATTERNS, draw.randint(1, 2))),
            )
        )
    return tuple(rules)
