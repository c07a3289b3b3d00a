"""Commands for tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from slipway.cli.output import Json, print_facts, print_json
from slipway.environment import Environment, open_environment
from slipway.errors import InvalidInput, NotReady, Problem, SlipwayError

token = typer.Typer(no_args_is_help=True, help="Tokens of the platform's doors, one per role; browser login.")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(token, name="token")


@token.command("list")
def list_tokens(as_json: Json = False) -> None:
    """Show the roles, what each may do, and the file that holds its token. No token is printed."""
    from slipway.tokens import MEANING, ROLES, read_token, token_file

    environment = open_environment()
    rows = []
    for role in ROLES:
        state = "ready"
        try:
            read_token(environment, role)
        except NotReady:
            state = "missing"
        except SlipwayError as error:
            state = error.message
        rows.append({"role": role, "may": MEANING[role], "file": str(token_file(environment, role)), "state": state})
    print_facts("Tokens", rows, as_json)


@token.command()
def rotate(
    roles: Annotated[list[str] | None, typer.Argument(help="Roles to rotate; all when none is named.")] = None,
    as_json: Json = False,
) -> None:
    """Replace tokens: the old ones are refused at once, and browsers that logged in with these roles are logged out."""
    from slipway import tokens
    from slipway.sessions import end_sessions
    from slipway.targets.local import envoy, traffic

    environment = open_environment()
    chosen = roles or list(tokens.ROLES)
    files = tokens.rotate(environment, chosen)
    ended = end_sessions(environment, chosen)
    # Before the first start there is no gateway whose routes could hold the old tokens.
    in_force = envoy.is_running(environment)
    if in_force:
        traffic.render(environment)
    facts = {"rotated": [str(file) for file in files], "logged_out": ended, "in_force": in_force}
    if as_json:
        print_json(facts)
        return
    for file in files:
        typer.echo(f"rotated {file}")
    typer.echo(f"{ended} browsers logged out" if ended else "no browser was logged in")
    if not in_force:
        typer.echo("the gateway does not run; it takes the new tokens when it starts")


@token.command()
def login(
    role: Annotated[str, typer.Option(help="What the browser may do: read or operate.")] = "read",
    as_json: Json = False,
) -> None:
    """Print an address that logs a browser in: it works once, for five minutes."""
    from slipway.endpoints import dashboard_url
    from slipway.sessions import CODE_LIFETIME, issue_code

    if role not in ("read", "operate"):
        raise InvalidInput(Problem("role", f"{role!r} is not for browsers", "one of: read, operate"))
    environment = open_environment()
    _require_gateway(environment)
    address = f"{dashboard_url(environment, 'portal')}/login?code={issue_code(environment, role)}"
    if as_json:
        print_json({"address": address, "role": role, "valid_seconds": int(CODE_LIFETIME)})
    else:
        typer.echo(address)


def _require_gateway(environment: Environment) -> None:
    from slipway.targets.local import envoy

    if not envoy.is_running(environment):
        raise NotReady("the gateway does not run, so nobody would answer at the address", hint="slipway up")
