"""The worker: JSON-RPC on pipes, every request answered once, whatever is sent."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import ImagePrompt, demo
from ipa.request.pictures import picture_sha256

SMALL = {"height": 16, "width": 16, "num_inference_steps": 2}


class Client:
    """A worker's other end, one line at a time."""

    def __init__(self, *command: str) -> None:
        words = command or (sys.executable, "-X", "utf8", "-I", "-m", "ipa.engine.stdio")
        self.child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.notices: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(line)
        self.child.stdin.flush()

    def send(self, number: Any, method: str, **params: Any) -> None:
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self.write(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        """End the worker's input."""
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.stdin = None

    def read(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        assert line, self.child.communicate()
        assert line.isascii()
        message: dict[str, Any] = json.loads(line)
        assert message["jsonrpc"] == "2.0"
        return message

    def answer(self) -> dict[str, Any]:
        """The next answer; what is told before it is kept."""
        while "method" in (message := self.read()):
            self.notices.append(message)
        return message

    def ask(self, number: Any, method: str, **params: Any) -> dict[str, Any]:
        self.send(number, method, **params)
        message = self.answer()
        assert message["id"] == number
        return message


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client()
    yield made
    made.child.kill()
    made.child.communicate()


@pytest.fixture
def begun(client: Client) -> Client:
    client.ask(1, "initialize", protocol=1)
    return client


def test_a_session_as_it_is_documented(client: Client, tmp_path: Path) -> None:
    hello = client.ask(1, "initialize", protocol=1, scratch=str(tmp_path))["result"]
    assert hello["pid"] == client.child.pid
    assert hello["protocol"] == 1
    loaded = client.ask(2, "load", model="demo", adapters=[{"source": "demo:base"}])["result"]
    reference = demo.references()[3]
    put = client.ask(3, "put", path=str(reference))["result"]
    picture = ipa.open_image(reference)
    assert (put["width"], put["height"]) == picture.size
    entry = {"image": {"sha256": put["sha256"]}, "adapter": "base", "scale": 0.7}
    request = {"prompt": "a star", "image_prompts": [entry], "seed": 7, **SMALL}
    preview = {"kind": "latent", "every": 1}
    told = {"handle": loaded["handle"], "request": request, "preview": preview, "deliver": "path"}
    client.notices.clear()
    done = client.ask("j1", "generate", **told)["result"]
    assert done["state"] == "completed"
    made = Image.open(done["images"][0]["path"])

    pipe = ipa.load("demo")
    pipe.load_ip_adapter("demo:base")
    prompt = ImagePrompt(picture, scale=0.7)
    alone = pipe("a star", image_prompts=[prompt], seed=7, **SMALL)  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(made), np.asarray(alone.images[0]))

    methods = [notice["method"] for notice in client.notices]
    assert methods[0] == "job/started"
    assert methods.count("job/preview") == 2
    assert [n["params"]["seq"] for n in client.notices] == list(range(1, len(methods) + 1))
    assert client.ask(5, "shutdown")["result"] == {}
    assert client.child.wait(10) == 0


def test_an_id_that_is_a_path_names_no_file_elsewhere(client: Client, tmp_path: Path) -> None:
    client.ask(1, "initialize", scratch=str(tmp_path))
    done = client.ask("../../x", "generate", request=SMALL, deliver="path")["result"]
    assert Path(done["images"][0]["path"]).parent == tmp_path


def test_cancel_while_it_runs(begun: Client) -> None:
    begun.send("j", "generate", request=SMALL | {"num_inference_steps": 900})
    while begun.read()["method"] != "job/progress":
        pass
    begun.send(2, "cancel", id="j")
    answers = [begun.answer(), begun.answer()]
    by_id = {message["id"]: message for message in answers}
    assert by_id[2]["result"] == {"was": "running"}
    assert by_id["j"]["error"]["code"] == -32800
    assert begun.ask(3, "cancel", id="j")["result"] == {"was": "unknown"}


BAD = {
    "no JSON": (b"{nonsense\n", -32700),
    "no object": (b"[1, 2]\n", -32600),
    "no method": (b'{"id": 4}\n', -32600),
    "unknown method": (b'{"id": 4, "method": "dance"}\n', -32601),
    "params": (b'{"id": 4, "method": "ping", "params": 3}\n', -32602),
    "deep": (b"[" * 100_000 + b"\n", -32700),
    "misspelt": (
        b'{"id": 4, "method": "generate", "params": {"request": {"promt": "x"}}}\n',
        -32602,
    ),
    "picture": (b'{"id": 4, "method": "put", "params": {"data": "AAAA"}}\n', -32602),
    "address": (b'{"id": 4, "method": "put", "params": {"path": "http://x/y.png"}}\n', -32602),
    "handle": (b'{"id": 4, "method": "load", "params": {"handle": "m9"}}\n', -32602),
    "model": (b'{"id": 4, "method": "load", "params": {"model": "/no/such"}}\n', -32602),
    "again": (b'{"id": 4, "method": "initialize"}\n', -32600),
    "files": (b'{"id": 4, "method": "generate", "params": {"deliver": "path"}}\n', -32602),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_and_the_worker_lives(name: str) -> None:
    line, code = BAD[name]
    client = _SHARED.get()
    client.write(line)
    answer = client.answer()
    assert answer["error"]["code"] == code, answer
    if code == -32602 and name not in {"params", "files"}:
        assert answer["error"]["data"], answer
    assert client.ask(5, "ping")["result"] == {}


class _Shared:
    """One worker for what leaves no trace."""

    def __init__(self) -> None:
        self._client: Client | None = None

    def get(self) -> Client:
        if self._client is None:
            self._client = Client()
            self._client.ask(1, "initialize")
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.child.kill()
            self._client.child.communicate()


_SHARED = _Shared()


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    _SHARED.close()


def test_initialize_comes_first_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; import ipa.engine.stdio.worker;"
        "print([m for m in ('numpy', 'PIL', 'mlx', 'torch', 'typer') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert out.stdout.strip() == b"[]"
    client = Client(str(Path(sys.executable).with_name("ipa-mlx")), "engine", "--stdio")
    assert client.ask(1, "ping")["error"]["code"] == -32006
    assert client.ask(2, "initialize", protocol=99)["error"]["code"] == -32602
    assert client.ask(3, "initialize")["result"]["protocol"] == 1
    client.child.kill()
    client.child.communicate()


@pytest.mark.parametrize("how", ["end of input", "SIGTERM"])
def test_it_ends_in_the_middle_of_a_job(begun: Client, how: str) -> None:
    begun.send("j", "generate", request=SMALL | {"num_inference_steps": 900})
    while begun.read()["method"] != "job/progress":
        pass
    if how == "SIGTERM":
        os.kill(begun.child.pid, signal.SIGTERM)
    else:
        begun.close()
    assert begun.child.wait(10) == 0


def test_half_a_last_line(begun: Client) -> None:
    begun.write(b'{"jsonrpc": "2.0", "id": 3, "meth')
    begun.close()
    assert begun.answer()["error"]["code"] == -32700
    assert begun.child.wait(10) == 0


def test_prints_do_not_reach_the_channel(tmp_path: Path) -> None:
    """Of Python, of C, and of children."""
    code = (
        "import ctypes, os, sys, threading\n"
        "from ipa.engine.stdio import worker, methods\n"
        "def noisy(desk, number, params):\n"
        "    print('of Python', flush=True)\n"
        "    os.write(1, b'of C\\n'); os.system('echo of a child')\n"
        "    desk.answer(number, sys.stdin.read())\n"
        "methods.METHODS['noisy'] = noisy\n"
        "worker.main()\n"
    )
    client = Client(sys.executable, "-c", code)
    client.ask(1, "initialize")
    assert client.ask(2, "noisy")["result"] == ""
    client.close()
    _, err = client.child.communicate()
    assert all(words in err for words in (b"of Python", b"of C", b"of a child"))


def test_encoder_view_schema_memory_and_list(begun: Client) -> None:
    data = base64.b64encode(demo.references()[0].read_bytes()).decode()
    asked = {"image_prompt": {"image": {"data": data}}, "adapters": ["demo:base"]}
    (view,) = begun.ask(2, "encoder_view", **asked)["result"]["images"]
    assert Image.open(io.BytesIO(base64.b64decode(view["data"]))).size == (64, 64)
    assert begun.ask(3, "schema")["result"]["title"] == "Request"
    assert begun.ask(4, "memory")["result"]["peak_resident_bytes"] > 1 << 20
    assert begun.ask(5, "list")["result"]["loaded"][0]["model"] == "demo"
    begun.ask(6, "unload")
    assert begun.ask(7, "list")["result"]["loaded"] == []


def test_a_plan_is_the_pipeline_s(begun: Client) -> None:
    request = {"prompt": "a star", **SMALL}
    plan = begun.ask(2, "plan", request=request)["result"]
    assert plan == ipa.load("demo").plan("a star", **SMALL).describe()  # type: ignore[arg-type]
    wrong = begun.ask(3, "plan", request={"promt": "x"})["error"]
    assert wrong["code"] == -32602 and "did you mean prompt" in wrong["data"]["remedy"]
    assert "plan" in begun.ask(4, "dance")["error"]["data"]["remedy"]


def test_a_frugal_job_says_so(begun: Client) -> None:
    done = begun.ask("j", "generate", request=SMALL, frugal=True)["result"]
    assert done["info"]["memory"]["budget_bytes"] == 1 << 26
    wrong = begun.ask("k", "generate", request=SMALL, frugal="yes")["error"]
    assert wrong["code"] == -32602


TRANSCRIPTS = sorted(
    (Path(__file__).resolve().parents[2] / "examples/swift/transcripts").glob("*.jsonl")
)


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcripts_of_the_swift_client(transcript: Path, tmp_path: Path) -> None:
    """What IPAEngine.swift sends, and what it is answered, line by line."""
    reference = demo.references()[3]
    sha256 = picture_sha256(ipa.open_image(reference))
    places = {"SCRATCH": str(tmp_path), "PICTURE": str(reference), "SHA256": sha256}
    client = Client()
    try:
        for line in transcript.read_text("utf-8").splitlines():
            for name, value in places.items():
                line = line.replace(f'"{name}"', json.dumps(value))
            entry = json.loads(line)
            if "→" in entry:
                client.write(json.dumps(entry["→"]).encode() + b"\n")
            else:
                _fits(client.read(), entry["←"])
    finally:
        client.child.kill()
        client.child.communicate()


def _fits(found: Any, wanted: Any, where: str = "") -> None:
    """Whether a message is as written; "*" is anything, and more members are no fault."""
    if wanted == "*":
        return
    if isinstance(wanted, dict):
        assert isinstance(found, dict), where
        for key, value in wanted.items():
            assert key in found, f"{where}.{key}: {found}"
            _fits(found[key], value, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            _fits(one, other, f"{where}[{number}]")
    else:
        assert found == wanted, where
