"""A stand-in for the model hub: a real HTTP server on this machine, with folders as repositories.

It answers what huggingface_hub's snapshot_download asks: a repository's commit, its tree, and each
file with its ETag (the sha256 of weights, which the hub keeps in LFS; git's own hash of the rest).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_REVISIONS = {None, "main", COMMIT}


def _hash(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(root: Path, path: Path) -> dict[str, Any]:
    """A file as the hub's tree lists it."""
    size, oid = path.stat().st_size, _hash(path)
    entry = {"type": "file", "path": str(path.relative_to(root)), "size": size, "oid": oid}
    if path.suffix == ".safetensors":
        entry["lfs"] = {"oid": oid, "size": size, "pointerSize": 134}
    return entry


def _files(root: Path) -> list[dict[str, Any]]:
    return [_entry(root, path) for path in sorted(root.rglob("*")) if path.is_file()]


@dataclass(frozen=True)
class LocalHub:
    """Where it listens, and which files it was asked for."""

    url: str
    fetched: list[str] = field(default_factory=list)

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables that make huggingface_hub ask this server, with a cache of its own."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}


@contextmanager
def serve(repositories: Mapping[str, Path]) -> Iterator[LocalHub]:
    """A hub with these repositories while the block runs."""
    fetched: list[str] = []

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
                self._json(match[1], match[2], lambda _: {"id": match[1], "sha": COMMIT}, body)
            elif match := _TREE.fullmatch(path):
                self._json(match[1], match[2], _files, body)
            elif match := _FILE.fullmatch(path):
                self._file(match[1], match[2], match[3], body=body)
            else:
                self._missing("EntryNotFound")

        def _json(
            self, name: str, revision: str | None, make: Callable[[Path], Any], body: bool
        ) -> None:
            if name not in repositories:
                return self._missing("RepoNotFound")
            if revision not in _REVISIONS:
                return self._missing("RevisionNotFound")
            content = json.dumps(make(repositories[name])).encode()
            return self._send(content, {"Content-Type": "application/json"}, body=body)

        def _file(self, name: str, revision: str, file: str, *, body: bool) -> None:
            path = repositories.get(name, Path("nowhere")) / file
            if revision not in _REVISIONS or not path.is_file():
                return self._missing("EntryNotFound")
            if body:
                fetched.append(f"{name}/{file}")
            headers = {"ETag": f'"{_hash(path)}"', "X-Repo-Commit": COMMIT}
            return self._send(path.read_bytes(), headers, body=body)

        def _send(self, content: bytes, headers: Mapping[str, str], *, body: bool) -> None:
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _missing(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield LocalHub(f"http://127.0.0.1:{server.server_port}", fetched)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
