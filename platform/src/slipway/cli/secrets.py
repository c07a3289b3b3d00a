"""Commands for tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from slipway.cli.output import Json, print_facts, print_json
from slipway.environment import open_environment
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
    """Replace tokens: the old ones are refused at once, and browsers that logged in with these roles are logged out.

    In a cluster both happen at the next `slipway up`.
    """
    from slipway import tokens
    from slipway.targets.local import envoy, traffic

    environment = open_environment()
    files = tokens.rotate(environment, roles or tokens.ROLES)
    # Before the first start there is no gateway whose routes could hold the old tokens.
    in_force = environment.settings.target == "local" and envoy.is_running(environment)
    if in_force:
        traffic.render(environment)
    if as_json:
        print_json({"rotated": [str(file) for file in files], "in_force": in_force})
        return
    for file in files:
        typer.echo(f"rotated {file}")
    if environment.settings.target == "kubernetes":
        typer.echo("the cluster takes the old ones until: slipway up")
    elif not in_force:
        typer.echo("the gateway does not run; it takes the new tokens when it starts")


@token.command()
def login(
    role: Annotated[str, typer.Option(help="What the browser may do: read or operate.")] = "read",
    as_json: Json = False,
) -> None:
    """Print an address that logs a browser in: it works once, for five minutes."""
    from slipway.endpoints import dashboard_url
    from slipway.gateway_client import request_code
    from slipway.sessions import CODE_LIFETIME
    from slipway.targets.local.routes import READERS

    wanted = next((known for known in READERS if known == role), None)
    if wanted is None:
        raise InvalidInput(Problem("role", f"{role!r} is not for browsers", f"one of: {', '.join(READERS)}"))
    environment = open_environment()
    address = f"{dashboard_url(environment, 'portal')}/login?code={request_code(environment, wanted)}"
    if as_json:
        print_json({"address": address, "role": role, "valid_seconds": int(CODE_LIFETIME)})
    else:
        typer.echo(address)
