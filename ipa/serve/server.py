"""The server: the application on a port, until it is told to stop."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn
from fastapi import APIRouter

from ipa.errors import IpaError, RequestError

from .app import make_app
from .desk import Desk
from .guard.addresses import LOOPBACK

_LOG = logging.getLogger("ipa.serve")
_GOODBYE_S = 3
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


class _Uvicorn(uvicorn.Server):
    """Uvicorn's server, which tells when it listens."""

    begun: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.begun()


class Server:
    """A server on a port.

    Args:
        desk: Where its jobs go; closed with the server.
        host: The address to listen on; the loopback one is this machine alone.
        port: 0 takes a free one.
        token: What clients must show; needed where others can reach it.
        allow_hosts: Names beside those of this machine that it goes by.
        further: Routes that come before its own, behind the same guards.

    Raises:
        RequestError: It would be open to others without a token.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        host: str = "127.0.0.1",
        port: int = 7860,
        token: str | None = None,
        allow_hosts: Sequence[str] = (),
        further: Sequence[APIRouter] = (),
    ) -> None:
        if host not in _LOCAL and not token:
            raise RequestError(
                "a server that others can reach needs a token",
                found=f"host {host}",
                remedy="give --token, or listen on 127.0.0.1",
            )
        self.desk, self._thread = desk, threading.Thread(target=self._serve, daemon=True)
        names = {*LOOPBACK, *allow_hosts, f"[{host}]" if ":" in host else host}
        app = make_app(desk, token=token, hosts=names, further=further)
        self._server = _Uvicorn(_config(desk, app, host, port))
        self._failure: BaseException | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port that it listens on, once it does."""
        number: int = self._server.servers[0].sockets[0].getsockname()[1]
        return number

    @property
    def url(self) -> str:
        """Its address on this machine."""
        return f"http://127.0.0.1:{self.port}"

    def run(self, begun: Callable[[], None]) -> None:
        """Serve in this thread until a signal ends it; then close the desk.

        Args:
            begun: Called when it listens.
        """
        self._server.begun = begun
        try:
            self._server.run()
        finally:
            self.desk.close()

    def start(self) -> None:
        """Serve in a thread of its own; returns when it listens."""
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise IpaError("the server did not start", found=str(self._failure or ""))
            self._thread.join(0.01)

    def stop(self) -> None:
        """Stop serving, and close the desk."""
        self._server.should_exit = True
        self._thread.join()
        self.desk.close()

    def _serve(self) -> None:
        try:
            self._server.run()
        except (SystemExit, OSError) as error:  # uvicorn leaves so where a port is taken
            self._failure = error


def _config(desk: Desk, app: Any, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=desk.limits.connections,
        timeout_graceful_shutdown=_GOODBYE_S,
        ws="none",
        lifespan="off",
    )


def kept_token(path: Path) -> str:
    """The token in a file that its owner alone can read, made where there is none.

    Raises:
        RequestError: The file is empty.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32))
    token = path.read_text("ascii").strip()
    if not token:
        raise RequestError("the file of the token is empty", found=str(path), remedy="delete it")
    return token
