"""The portal's ASGI application: the routes below the gateway, and the gateway's own question at `/authorize`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from fastapi.encoders import jsonable_encoder
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from slipway.contract import list_models
from slipway.endpoints import scheme_of
from slipway.environment import Environment
from slipway.errors import InvalidInput, SlipwayError
from slipway.labels import LabelStore
from slipway.ledger import Ledger, open_ledger
from slipway.logs import get_logger
from slipway.portal import authorization, labels_api, pages
from slipway.portal.overview import Overview, read_overview
from slipway.sessions import CODE_LIFETIME, Session, SessionStore
from slipway.targets.local.doors import TITLES, door_of, hosts_of
from slipway.targets.local.routes import READERS

HEALTH = "/.slipway/health"
"""Asked by the kubelet at the pod's own address; the gateway routes it nowhere."""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_REFRESH = 15
"""Seconds after which a page loads itself again."""


class Portal:
    """Handlers; the ledger and the label store are opened when first asked for."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.sessions = SessionStore(environment)
        self.log = get_logger("portal")

    @cached_property
    def ledger(self) -> Ledger:
        return open_ledger(self.environment)

    @cached_property
    def labels(self) -> LabelStore:
        return LabelStore(self.environment)

    @cached_property
    def dashboards(self) -> dict[str, str]:
        """Door -> title of those that there are."""
        return {door: TITLES[door] for door in hosts_of(self.environment) if door in TITLES}

    @property
    def login_command(self) -> str:
        """What whoever keeps the tokens types."""
        name = self.environment.settings.name
        return f"slipway --env {name} token login" if self.environment.settings.kubernetes else "slipway token login"

    # --- the gateway's question ---------------------------------------------------------------------------------------

    async def authorize(self, request: Request) -> Response:
        """200 to let a request pass, or the answer that its client gets. Reached on the socket only."""
        path = request.scope["raw_path"].decode("latin-1").removeprefix("/authorize").split("?")[0]
        asked = authorization.Asked(request.method, path, dict(request.headers))
        decision = await run_in_threadpool(authorization.decide, self.environment, self.sessions, asked)
        if decision.status == 200:
            return Response(status_code=200, headers=decision.upstream_headers)
        headers = {"www-authenticate": 'Bearer realm="slipway"'} if decision.status == 401 else {}
        if not asked.wants_page:
            return JSONResponse({"error": decision.message}, decision.status, headers)
        page = pages.render(
            "refused.html", decision=decision, title=self.dashboards.get(decision.door or ""), path=path,
            portal=self._address(request, "portal"), command=self.login_command,
        )  # fmt: skip
        return HTMLResponse(page, decision.status, headers)

    # --- login --------------------------------------------------------------------------------------------------------

    async def login(self, request: Request) -> Response:
        """Spend the code of a one-time address: the browser gets its cookie, and an address without the code."""
        door = door_of(self.environment, request.headers.get("host", "")) or "portal"
        code = request.query_params.get("code", "")
        spent = await run_in_threadpool(self.sessions.exchange, code, door) if code else None
        if spent is None:
            page = pages.render("login.html", tried=bool(code), command=self.login_command)
            return HTMLResponse(page, 403 if code else 200)
        value, session = spent
        answer = RedirectResponse(_own_path(request), 303)
        answer.set_cookie(
            authorization.cookie_name(self.environment),
            value,
            expires=datetime.fromtimestamp(session.expires, UTC),
            httponly=True,
            # Not `strict`: following a link from the portal to a dashboard is a navigation between two sites.
            samesite="lax",
            secure=scheme_of(self.environment) == "https",
        )
        return answer

    async def logout(self, request: Request) -> Response:
        """End the portal's session and those of the dashboards."""
        session = await self._session(request)
        if session is not None:
            await run_in_threadpool(self.sessions.end, session)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(authorization.cookie_name(self.environment))
        return answer

    async def open_dashboard(self, request: Request) -> Response:
        """Send a logged-in browser to a dashboard's host with a code of its own."""
        door = request.path_params["door"]
        if door not in self.dashboards:
            raise HTTPException(404, f"there is no {door} here")
        session = await self._session(request)
        if session is None:
            raise HTTPException(400, f"dashboards are opened by a browser that is logged in: {self.login_command}")
        code = await run_in_threadpool(lambda: self.sessions.issue_code(session.role, door, parent=session))
        address = f"{self._address(request, door)}/.slipway/login?code={code}&next={_own_path(request)}"
        return RedirectResponse(address, 303)

    async def make_code(self, request: Request) -> Response:
        """For the command line: a code whose session may do what the token that asks may."""
        shown = request.headers.get("authorization", "")
        role = await run_in_threadpool(authorization.role_of_bearer, self.environment, shown)
        if role not in READERS:  # a session must not outlive itself by opening another one
            raise HTTPException(403, f"a login is made for the token of role {' or '.join(READERS)}, and for no cookie")
        code = await run_in_threadpool(self.sessions.issue_code, role)
        return JSONResponse({"code": code, "role": role, "valid_seconds": int(CODE_LIFETIME)})

    async def _session(self, request: Request) -> Session | None:
        cookies = request.headers.get("cookie", "")
        return await run_in_threadpool(authorization.session_of, self.environment, self.sessions, cookies, "portal")

    def _address(self, request: Request, door: str) -> str:
        """`scheme://host:port` of a door, below the name under which this request came."""
        name, _, port = request.headers.get("host", "").lower().partition(":")
        names = hosts_of(self.environment)
        is_below = self.environment.settings.kubernetes or door_of(self.environment, name) not in (None, "portal")
        stem = name.partition(".")[2] if is_below else name
        wanted = stem if door == "portal" and not self.environment.settings.kubernetes else f"{door}.{stem}"
        known = names[door]  # type: ignore[index] # the route takes no other name
        host = wanted if wanted in known else known[0]
        return f"{scheme_of(self.environment)}://{host}{f':{port}' if port else ''}"

    async def health(self, _: Request) -> Response:
        """This process answers. Whether the ledger does is no reason to restart it, or to let nobody through."""
        return Response()

    # --- pages and facts ----------------------------------------------------------------------------------------------

    async def home(self, request: Request) -> Response:
        overview = await run_in_threadpool(self._overview)
        page = pages.render(
            "home.html", overview=overview, refresh=_REFRESH, session=await self._session(request),
            dashboards=self.dashboards, now=datetime.now(UTC),
        )  # fmt: skip
        return HTMLResponse(page)

    async def model(self, request: Request) -> Response:
        name = request.path_params["model"]
        overview = await run_in_threadpool(lambda: self._overview(50))
        found = next((model for model in overview.models if model.name == name), None)
        if found is None:
            raise HTTPException(404, f"model {name!r} does not exist")
        page = pages.render(
            "model.html", overview=overview, model=found, refresh=_REFRESH, session=await self._session(request),
            dashboards=self.dashboards, now=datetime.now(UTC),
        )  # fmt: skip
        return HTMLResponse(page)

    async def status(self, request: Request) -> Response:
        overview = await run_in_threadpool(self._overview)
        return JSONResponse(jsonable_encoder(asdict(overview)))

    def _overview(self, depth: int = 8) -> Overview:
        return read_overview(self.environment, self.ledger, names=list_models(), depth=depth)

    async def post_labels(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > labels_api.BODY_LIMIT:
                raise HTTPException(413, f"send at most {labels_api.BODY_LIMIT} bytes at a time")
        outcome = await run_in_threadpool(lambda: labels_api.take_labels(self.environment, self.labels, bytes(body)))
        status, document = labels_api.as_answer(outcome)
        return JSONResponse(document, status)

    # --- mistakes -----------------------------------------------------------------------------------------------------

    async def tell(self, request: Request, error: Exception) -> Response:
        """One form for every mistake: a page for people, JSON for programs, never a traceback."""
        problems: list[dict[str, str]] = []
        if isinstance(error, HTTPException):
            status, message = error.status_code, str(error.detail)
        elif isinstance(error, InvalidInput):
            status, message = 422, str(error)
            problems = [labels_api.problem_document(problem) for problem in error.problems]
        else:
            status, message = 503, str(error)
            self.log.error("refused a request", path=request.url.path, error=message)
        if "text/html" in request.headers.get("accept", ""):
            page = pages.render("mistake.html", status=status, message=message)
            return HTMLResponse(page, status)
        return JSONResponse({"error": message, **({"problems": problems} if problems else {})}, status)


def _own_path(request: Request) -> str:
    """Where to go after a login: `next` when it is a plain path of this host, never another host."""
    wanted = request.query_params.get("next", "/")
    return wanted if re.fullmatch(r"(/[A-Za-z0-9_-]+)+|/", wanted) else "/"


def create_app(environment: Environment) -> Starlette:
    """The application for one environment."""
    portal = Portal(environment)

    async def tell(request: Request, error: Exception) -> Response:
        return await portal.tell(request, error)

    application = Starlette(
        routes=[
            Route(HEALTH, portal.health),
            Route("/authorize{path:path}", portal.authorize, methods=METHODS),
            Route("/", portal.home),
            Route("/models/{model}", portal.model),
            Route("/open/{door}", portal.open_dashboard),
            Route("/login", portal.login),
            Route("/.slipway/login", portal.login),
            Route("/logout", portal.logout, methods=["POST"]),
            Route("/api/login", portal.make_code, methods=["POST"]),
            Route("/api/status", portal.status),
            Route("/api/labels", portal.post_labels, methods=["POST"]),
            Mount("/.slipway/static", StaticFiles(directory=pages.STATIC)),
        ],
        exception_handlers={HTTPException: tell, SlipwayError: tell},
    )
    application.add_middleware(_SecurityHeaders)
    return application


class _SecurityHeaders:
    """Puts the security headers on every answer, except the gateway's permissions, which go to no browser."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                extra = [(name.encode(), value.encode()) for name, value in pages.HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in given)]
            await send(message)

        await self.app(scope, receive, send_with_headers)
