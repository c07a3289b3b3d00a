"""Whether a request that carries a cookie or a token may pass: asked by the gateway for each request to a page.

Checked on every method: the host must be one of ours (another site may have pointed its name at this address), the
origin must be the host itself (another page may have sent the request), then the role. It looks rules up in the same
table that the gateway was configured from.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway.endpoints import ray_token_file, scheme_of
from slipway.environment import Environment
from slipway.errors import SlipwayError
from slipway.registry import authorization_of
from slipway.sessions import Session, SessionStore
from slipway.targets.local.bootstrap import RAY_HEADER
from slipway.targets.local.doors import door_of
from slipway.targets.local.routes import Door, find_route, methods_of
from slipway.tokens import ROLES, Role, read_token


@dataclass(frozen=True)
class Asked:
    """The request that the gateway asks about; header names in lower case, the path as it will be routed, no query."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def host(self) -> str:
        return self.headers.get("host", "")

    @property
    def wants_page(self) -> bool:
        """Whether a person is looking at what comes back."""
        return "text/html" in self.headers.get("accept", "")


@dataclass(frozen=True)
class Decision:
    """200 lets the request pass; anything else is the answer to the client, with `message` as its text."""

    status: int
    message: str = ""
    door: Door | None = None
    upstream_headers: dict[str, str] = field(default_factory=dict)


def cookie_name(environment: Environment) -> str:
    """Browsers send cookies to every port of a host: the name keeps the environments of one machine apart."""
    prefix = "__Host-" if scheme_of(environment) == "https" else ""
    # The portals of a cluster are one door, wherever each keeps its files.
    place = "" if environment.settings.kubernetes else f"-{environment.state.sockets.name.rsplit('-', 1)[-1]}"
    return f"{prefix}slipway-{environment.settings.name}{place}"


def decide(environment: Environment, sessions: SessionStore, asked: Asked) -> Decision:
    """Apply the rule of the route table to a request. Who shows a token needs no database."""
    door = door_of(environment, asked.host)
    if door is None:
        return Decision(421, "this host name is not served here")
    if refusal := _foreign(environment, asked):
        return Decision(403, refusal, door)
    route = find_route(door, asked.method, asked.path)
    if route is not None and route.check == "open":
        return Decision(200, door=door)
    role = role_of(environment, sessions, asked, door)
    if role is None:
        return Decision(401, "log in: run `slipway token login`, or send a bearer token", door)
    if route is None:
        methods = methods_of(door, asked.path)
        return Decision(
            405 if methods else 404, f"this path takes {', '.join(methods)}" if methods else "no such page", door
        )
    if role not in route.roles:
        return Decision(403, f"role {role} may not do this; it takes {' or '.join(route.roles)}", door)
    return Decision(200, door=door, upstream_headers=_own_credentials(environment, door))


def role_of(environment: Environment, sessions: SessionStore, asked: Asked, door: Door) -> Role | None:
    """The role that the bearer token or else the cookie stands for; None for neither, or a wrong one."""
    if shown := asked.headers.get("authorization", ""):
        return role_of_bearer(environment, shown)
    session = session_of(environment, sessions, asked.headers.get("cookie", ""), door)
    return session.role if session else None


def role_of_bearer(environment: Environment, shown: str) -> Role | None:
    """The role of the token in an Authorization header; None for anything else."""
    scheme, _, given = shown.partition(" ")
    return _role_of_token(environment, given.strip()) if scheme.lower() == "bearer" else None


def session_of(environment: Environment, sessions: SessionStore, cookies: str, door: Door) -> Session | None:
    """The session behind a Cookie header."""
    name = cookie_name(environment)
    for pair in cookies.split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name and value and (session := sessions.find(value, door)):
            return session
    return None


def _role_of_token(environment: Environment, given: str) -> Role | None:
    found: Role | None = None
    for role in ROLES:  # all of them every time, so that the time taken tells nothing
        if hmac.compare_digest(read_token(environment, role).encode(), given.encode()):
            found = role
    return found


def _foreign(environment: Environment, asked: Asked) -> str:
    """Why the request seems to come from a page of another site; empty when it does not."""
    origin = asked.headers.get("origin")
    if origin is not None and origin.lower() != f"{scheme_of(environment)}://{asked.host.lower()}":
        return f"origin {origin[:100]!r} is not this host"
    site = asked.headers.get("sec-fetch-site", "none")
    followed_link = asked.method == "GET" and asked.headers.get("sec-fetch-mode") == "navigate"
    framed = asked.headers.get("sec-fetch-dest") in ("iframe", "frame", "embed", "object")
    if site not in ("none", "same-origin") and (not followed_link or framed):
        return "requests from pages of other sites are refused"
    return ""


def _own_credentials(environment: Environment, door: Door) -> dict[str, str]:
    """What the server behind a door asks for itself, in place of what the client has shown us."""
    if door == "mlflow" and environment.pod is not None:
        return {"authorization": authorization_of(environment)}
    return _ray_credentials(environment) if door == "ray" else {}


def _ray_credentials(environment: Environment) -> dict[str, str]:
    try:
        return {RAY_HEADER: f"Bearer {ray_token_file(environment).read_text().strip()}"}
    except OSError as error:
        raise SlipwayError("Ray's token cannot be read", hint="slipway up makes it") from error
