"""`agentbus acl`: say who may do what, and why."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..errors import ConfigError
from ..names import check_pattern
from ..routing import ADMIN, REQUEST, Decision, principal_of
from .runtime import print_json, run
from .settings import find_settings_file, load_rules

__all__ = ["acl"]

acl = typer.Typer(help="Ask the access policy who may do what.", no_args_is_help=True)


@acl.callback()
def group() -> None:
    """Ask the access policy who may do what."""


@acl.command()
def explain(
    principal: Annotated[
        str,
        typer.Argument(
            help="key:NAME, token:NAME, uid:NUMBER or agent:NAME; several joined by '+'."
        ),
    ],
    operation: Annotated[
        Literal["request", "publish", "subscribe", "register", "list", "admin"],
        typer.Argument(help="What it wants to do."),
    ],
    subject: Annotated[str, typer.Argument(help="The agent, topic or pattern.")],
    config: Annotated[
        str,
        typer.Option(
            "--config", help="A settings file; else AGENTBUS_CONFIG, or ./agentbus.toml if present."
        ),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether a principal may do something, and which rule decides. Status 1 if it may not."""
    denied: list[bool] = []

    async def job() -> None:
        path = find_settings_file(config)
        policy = load_rules(path)[0]
        identities = principal_of(principal)
        name = subject.partition("/")[0] if operation in (REQUEST, ADMIN) else subject
        check_pattern(name)
        if policy is None:
            where = str(path) if path is not None else "no settings file"
            raise ConfigError("acl", f"there is no [acl] ({where}): whoever can join may do all")
        decision = policy.decide(identities, operation, name)
        denied.append(not decision.allowed)
        _show(decision, json=json)

    run(job, json=json)
    if any(denied):
        raise SystemExit(1)


def _show(decision: Decision, *, json: bool) -> None:
    rule = decision.rule
    if json:
        print_json(
            {
                "principal": decision.principal,
                "operation": decision.operation,
                "subject": decision.subject,
                "allowed": decision.allowed,
                "rule": None if rule is None else rule.number,
                "place": "" if rule is None else rule.place,
                "why": decision.why,
            }
        )
        return
    may = "may" if decision.allowed else "may not"
    print(f"{decision.principal} {may} {decision.operation} {decision.subject!r}: {decision.why}.")
