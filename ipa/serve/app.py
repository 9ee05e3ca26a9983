"""The application: all routes over one desk, behind its guards."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from ipa.errors import IpaError
from ipa.version import __version__

from .desk import Desk
from .faults import Fault, fault_of
from .guard.addresses import LOOPBACK, AddressGuard
from .guard.token import TokenGuard
from .guard.traffic import TrafficGuard
from .routes.a1111 import a1111_routes
from .routes.native import native_routes
from .routes.openai import openai_routes
from .routes.pages import page_routes
from .routes.words import schemas

_LOG = logging.getLogger("ipa.serve")


def make_app(
    desk: Desk,
    *,
    token: str | None = None,
    hosts: Collection[str] = LOOPBACK,
    further: Sequence[APIRouter] = (),
) -> ASGIApp:
    """The application over a desk, which stays the caller's to close.

    Args:
        desk: Where its jobs go.
        token: What a client must show; None lets all pass that the guards do.
        hosts: The names that it goes by, compared whole.
        further: Routes that come before its own, behind the same guards.
    """
    api = FastAPI(
        title="ipa-mlx",
        version=__version__,
        docs_url=None,  # FastAPI's own load a page's parts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.desk = desk
    for routes in (
        *further,
        page_routes(),
        native_routes(desk),
        openai_routes(desk),
        a1111_routes(desk),
    ):
        api.include_router(routes)
    for kind in (Fault, IpaError, HTTPException, RequestValidationError, Exception):
        api.add_exception_handler(kind, _refused)
    api.openapi = lambda: _described(api)  # type: ignore[method-assign]
    guarded = TrafficGuard(TokenGuard(api, token), desk.limits)
    return TrafficGuard(AddressGuard(guarded, hosts), desk.limits)


def _described(api: FastAPI) -> dict[str, Any]:
    """openapi.json with the schemas of bodies that are read by hand; made once."""
    if api.openapi_schema is None:
        made = get_openapi(title=api.title, version=api.version, routes=api.routes)
        made.setdefault("components", {}).setdefault("schemas", {}).update(schemas())
        api.openapi_schema = made
    return api.openapi_schema


def _refused(request: Request, error: Exception) -> JSONResponse:
    fault = _fault(error)
    if fault.status != 404:
        _LOG.warning("refused %s %r: %s", request.method, request.url.path, fault.line)
    path = request.url.path
    headers = fault.headers | ({"Allow": _methods(request)} if fault.status == 405 else {})
    return JSONResponse(fault.body(path), status_code=fault.status_at(path), headers=headers)


def _methods(request: Request) -> str:
    """The methods of all routes of a path; a router's own answer has those of the first alone."""
    described = request.app.openapi()["paths"]
    found: set[str] = set()
    for path, told in described.items():
        pattern = "/".join(
            _ANY if part.startswith("{") else re.escape(part) for part in path.split("/")
        )
        if re.fullmatch(pattern, request.url.path):
            found |= {method.upper() for method in told}
    return ", ".join(sorted(found or {"GET"}))


_ANY = "[^/]+"


def _fault(error: Exception) -> Fault:
    if isinstance(error, HTTPException):
        return Fault(error.status_code, str(error.detail).lower())
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = str(first["loc"][-1])
        return Fault(422, f"{field} is wrong", field=field, found=str(first["msg"])[:80])
    return fault_of(error)
