"""A stand-in for the model hub: a real HTTP server on this machine, with folders as repositories.

It answers what huggingface_hub asks: a repository's commit, its tree, and each file, whole or from
a byte on, with its ETag (the sha256 of weights, which the hub keeps in LFS; git's own hash of the
rest). It can shut a repository off, and break a connection in the middle of a file.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER, OLDER_COMMIT = "v1", "89abcdef0123456789abcdef0123456789abcdef"
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_COMMITS = {None: COMMIT, "main": COMMIT, COMMIT: COMMIT}
_OLDER_COMMITS = {OLDER: OLDER_COMMIT, OLDER_COMMIT: OLDER_COMMIT}
_WEIGHTS = {".safetensors", ".bin", ".ckpt"}


def _hash(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix in _WEIGHTS:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(root: Path, path: Path) -> dict[str, Any]:
    """A file as the hub's tree lists it."""
    size, oid = path.stat().st_size, _hash(path)
    entry = {"type": "file", "path": str(path.relative_to(root)), "size": size, "oid": oid}
    if path.suffix in _WEIGHTS:
        entry["lfs"] = {"oid": oid, "size": size, "pointerSize": 134}
    return entry


def _files(root: Path) -> list[dict[str, Any]]:
    return [_entry(root, path) for path in sorted(root.rglob("*")) if path.is_file()]


def _siblings(root: Path) -> dict[str, Any]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {"siblings": [{"rfilename": str(path.relative_to(root))} for path in paths]}


@dataclass(frozen=True)
class LocalHub:
    """Where it listens, and which files it was asked for.

    Attributes:
        fetched: owner/name/path of each file sent, with "@5" behind it if from byte 5 on.
        closed: The status and the error code that a repository's files are refused with.
        broken: How often still the connection breaks in the middle of a file, by its path.
    """

    url: str
    fetched: list[str] = field(default_factory=list)
    closed: dict[str, tuple[int, str]] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables that make huggingface_hub ask this server, with a cache of its own."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}

    def reset(self) -> None:
        """Nothing asked for yet, and all in order."""
        for state in (self.fetched, self.closed, self.broken):
            state.clear()


@contextmanager
def serve(repositories: Mapping[str, Path]) -> Iterator[LocalHub]:
    """A hub with these repositories while the block runs; owner/name@v1 is an older revision."""
    hub = LocalHub("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Nothing on the terminal."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            if match := _INFO.fullmatch(path):
                info = {"id": match[1], "sha": self._commit(match[1], match[2])}
                self._json(match[1], match[2], lambda root: info | _siblings(root), body)
            elif match := _TREE.fullmatch(path):
                self._json(match[1], match[2], _files, body)
            elif match := _FILE.fullmatch(path):
                self._file(match[1], match[2], match[3], body=body)
            else:
                self._refuse(404, "EntryNotFound")

        def _commit(self, name: str, revision: str | None) -> str | None:
            older = _OLDER_COMMITS if f"{name}@{OLDER}" in repositories else {}
            return (_COMMITS | older).get(revision)

        def _root(self, name: str, revision: str | None) -> Path:
            older = self._commit(name, revision) == OLDER_COMMIT
            return repositories[f"{name}@{OLDER}" if older else name]

        def _json(
            self, name: str, revision: str | None, make: Callable[[Path], Any], body: bool
        ) -> None:
            if name not in repositories:
                return self._refuse(404, "RepoNotFound")
            if self._commit(name, revision) is None:
                return self._refuse(404, "RevisionNotFound")
            content = json.dumps(make(self._root(name, revision))).encode()
            return self._send(content, {"Content-Type": "application/json"}, body=body)

        def _file(self, name: str, revision: str, file: str, *, body: bool) -> None:
            if name in hub.closed:
                return self._refuse(*hub.closed[name])
            commit = self._commit(name, revision)
            path = self._root(name, revision) / file if name in repositories else Path("nowhere")
            if commit is None or not path.is_file():
                return self._refuse(404, "EntryNotFound")
            content, start = path.read_bytes(), 0
            headers = {"ETag": f'"{_hash(path)}"', "X-Repo-Commit": commit}
            if body:
                asked = re.fullmatch(r"bytes=([0-9]+)-", self.headers.get("Range", ""))
                start = int(asked[1]) if asked else 0
                hub.fetched.append(f"{name}/{file}" + (f"@{start}" if start else ""))
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            broken = body and hub.broken.get(f"{name}/{file}", 0) > 0
            if broken:
                hub.broken[f"{name}/{file}"] -= 1
            return self._send(content[start:], headers, body=body, broken=broken, part=start > 0)

        def _send(
            self,
            content: bytes,
            headers: Mapping[str, str],
            *,
            body: bool,
            broken: bool = False,
            part: bool = False,
        ) -> None:
            self.send_response(206 if part else 200)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content[: len(content) // 2] if broken else content)
            self.close_connection = self.close_connection or broken

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield replace(hub, url=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
