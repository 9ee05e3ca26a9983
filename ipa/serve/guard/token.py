"""The token: who may use a server that others can reach."""

from __future__ import annotations

import base64
import binascii
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from ..faults import Fault
from .refusals import App, headers_of, refuse

COOKIE = "ipa-mlx-token"
"""The cookie by which a browser shows the token, once it has opened /?token=…"""

_BY_ID = "/api/v1/results/"  # an id of 128 random bits is a token itself: clients fetch URLs bare


class TokenGuard:
    """Refuses requests without the token: Bearer, the password of Basic, or the page's cookie.

    Args:
        app: What stands behind it.
        token: None lets all pass.
    """

    def __init__(self, app: App, token: str | None) -> None:
        self._app, self._token = app, None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or self._token is None or self._is_free(scope):
            await self._app(scope, receive, send)
        elif self._is_log_in(scope):
            await self._log_in(send)
        elif any(hmac.compare_digest(one, self._token) for one in _shown_tokens(scope)):
            await self._app(scope, receive, send)
        else:
            fault = Fault(
                401,
                "this server needs its token",
                field="Authorization",
                remedy="Authorization: Bearer TOKEN, or TOKEN as the password, or /?token=TOKEN",
                code="invalid_api_key",
            )
            await refuse(scope, send, fault)

    @staticmethod
    def _is_free(scope: Scope) -> bool:
        return scope["method"] in ("GET", "HEAD") and str(scope["path"]).startswith(_BY_ID)

    def _is_log_in(self, scope: Scope) -> bool:
        if scope["method"] != "GET" or scope["path"] != "/" or self._token is None:
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return hmac.compare_digest(given.encode(), self._token)

    async def _log_in(self, send: Send) -> None:
        cookie = b"%s=%s; HttpOnly; SameSite=Strict; Path=/" % (
            COOKIE.encode(),
            base64.urlsafe_b64encode(self._token or b""),
        )
        headers = [(b"location", b"/"), (b"set-cookie", cookie), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body"})


def _shown_tokens(scope: Scope) -> list[bytes]:
    found = []
    for header in headers_of(scope, b"authorization"):
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            found.append(value.strip().encode("latin-1"))
        elif scheme.lower() == "basic":
            found.append(_decoded(value).partition(b":")[2])
    for header in headers_of(scope, b"cookie"):
        try:
            morsel = SimpleCookie(header).get(COOKIE)
        except CookieError:
            continue
        if morsel is not None:
            found.append(_decoded(morsel.value))
    return found


def _decoded(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text.strip().encode("latin-1"))
    except (binascii.Error, ValueError):
        return b""
