"""The page of the API, which needs nothing but this server."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from ..faults import Fault

_FILES: Mapping[str, str] = {
    "index.html": "text/html",
    "page.js": "text/javascript",
    "page.css": "text/css",
}
_HEADERS = {"cache-control": "no-cache"}


def page_routes() -> APIRouter:
    """The page, its files, and what programs find at the root."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def root(request: Request) -> Response:
        """The page for a browser; for a program what Draw Things' clients look for."""
        if "text/html" in request.headers.get("accept", ""):
            return Response(_read("index.html"), media_type="text/html", headers=_HEADERS)
        told: dict[str, Any] = {"name": "ipa-mlx", "api": "/api/v1", "openapi": "/openapi.json"}
        return JSONResponse(told | {"model": request.app.state.desk.offers.model(None)})

    @router.get("/page/{name}")
    def file(name: str) -> Response:
        """One of its files."""
        if name not in _FILES:
            raise Fault(404, "there is no such file")
        return Response(_read(name), media_type=_FILES[name], headers=_HEADERS)

    return router


def _read(name: str) -> bytes:
    return (importlib.resources.files("ipa.serve") / "page" / name).read_bytes()
