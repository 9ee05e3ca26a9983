"""What stands before the routes: strangers' pages, other names, bombs, slow clients, tokens."""

from __future__ import annotations

import base64
import logging
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from ipa.errors import RequestError
from ipa.serve.desk import Desk, random_id
from ipa.serve.guard.addresses import host_name
from ipa.serve.limits import Limits
from ipa.serve.offers import Offers
from ipa.serve.server import Server, kept_token
from oracle.served import PaperEngine, ask, base64_of, paper_server, reference

LIMITS = Limits(body_bytes=1 << 20, silent_s=1.0, streams=3)
TOKEN = "a token: with a colon"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with paper_server(LIMITS) as (made, _):
        yield made


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with paper_server(LIMITS, token=TOKEN, allow_hosts=["host.docker.internal"]) as (made, _):
        yield made


def alive(server: Server) -> bool:
    return ask(server, "/api/v1/models").status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("[::1]:{port}", 200),
        ("localhost.evil.com", 403),
        ("evil.com", 403),
        ("evil@127.0.0.1", 403),
        ("127.0.0.1.", 403),
        ("127.0.0.1:80:80", 403),
        ("", 403),
        ("host.docker.internal:7860", 403),
    ],
)
def test_the_host_is_compared_whole(server: Server, host: str, status: int) -> None:
    told = ask(server, "/api/v1/models", headers={"Host": host.format(port=server.port)})
    assert told.status == status
    if host.startswith("host.docker"):
        assert "--allow-host host.docker.internal" in told.json["error"]["remedy"]


def test_a_name_that_was_allowed(guarded: Server) -> None:
    headers = {"Host": "host.docker.internal:1", "Authorization": f"Bearer {TOKEN}"}
    assert ask(guarded, "/v1/models", headers=headers).status == 200


def test_names_of_hosts() -> None:
    assert host_name("LocalHost:7860") == "localhost"
    assert host_name("[::1]") == "[::1]"
    assert host_name("localhost/evil") is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:{port}"}, 202),
        ({"Origin": "http://127.0.0.1:{other}"}, 403),  # another program of this machine
        ({"Origin": "https://evil.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://127.0.0.1:{port}.evil.com"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "none"}, 202),
    ],
)
def test_pages_of_other_sites(server: Server, headers: dict[str, str], status: int) -> None:
    port = server.port
    sent = {key: value.format(port=port, other=port + 1) for key, value in headers.items()}
    assert ask(server, "/api/v1/jobs", {"request": {}}, headers=sent).status == status


def test_only_the_page_itself_may_be_linked_to(server: Server) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
    assert ask(server, "/", headers=link).status == 200
    assert ask(server, "/api/v1/jobs", headers=link).status == 403
    assert ask(server, "/", headers=link | {"Sec-Fetch-Mode": "no-cors"}).status == 403


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/v1/images/generations", "/sdapi/v1/txt2img"])
def test_what_browsers_send_without_asking_is_no_json(server: Server, path: str) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        told = ask(server, path, b'{"prompt": "x"}', headers={"Content-Type": kind})
        assert told.status == 415
    for body, status in ((b"{", 400), (b"[" * 100_000, 400), (b"[]", 422), (b'{"a": NaN}', 400)):
        told = ask(server, path, body, headers={"Content-Type": "application/json"})
        assert told.status == (400 if path.startswith("/v1/") else status), body[:9]
    assert alive(server)


def test_every_dialect_has_its_own_shape_of_refusals(server: Server) -> None:
    told = ask(server, "/v1/images/generations", {"prompt": "x", "n": 0})
    assert told.status == 400
    assert told.json["error"].keys() >= {"message", "type", "param", "code", "found", "remedy"}
    assert told.json["error"]["param"] == "n"
    told = ask(server, "/sdapi/v1/txt2img", {"steps": 0})
    assert told.status == 422
    assert told.json.keys() >= {"error", "detail", "body", "errors", "field", "found", "remedy"}
    told = ask(server, "/api/v1/jobs", {"request": {"seed": -1}})
    assert told.json["error"].keys() == {"code", "what", "field", "found", "remedy"}
    assert told.json["error"]["field"] == "seed"


def test_the_token(guarded: Server) -> None:
    def status(path: str = "/v1/models", **headers: str) -> int:
        return ask(guarded, path, headers=headers).status

    def basic(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    told = ask(guarded, "/v1/models")
    assert told.status == 401 and told.headers["www-authenticate"] == "Bearer"
    assert told.json["error"]["code"] == "invalid_api_key"
    assert status(Authorization=f"Bearer {TOKEN}") == 200
    assert status(Authorization=f"Bearer {TOKEN[:-1]}") == 401
    assert status(Authorization=basic(f"me:{TOKEN}")) == 200
    assert status(Authorization=basic(TOKEN)) == 401
    assert status(Authorization="Basic !") == 401
    entered = ask(guarded, "/?token=" + TOKEN.replace(" ", "%20"))
    assert entered.status == 303 and entered.headers["location"] == "/"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert status("/", Cookie=cookie.partition(";")[0]) == 200
    assert ask(guarded, "/?token=wrong").status == 401
    # An id of 128 random bits is its own token: clients fetch what `url` names without one.
    assert status(f"/api/v1/results/{random_id()}") == 404


def test_wider_than_this_machine_needs_a_token() -> None:
    engine = PaperEngine()
    desk = Desk(Offers.of(["demo"]), LIMITS, engine)
    with pytest.raises(RequestError, match="needs a token"):
        Server(desk, host="0.0.0.0")
    desk.close()


def test_the_tokens_file_is_its_owners(tmp_path: pytest.TempPathFactory) -> None:
    path = tmp_path / "deep" / "token"  # type: ignore[operator]
    token = kept_token(path)
    assert len(token) > 40 and kept_token(path) == token
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_body_is_counted_while_it_comes(server: Server) -> None:
    """Neither Content-Length nor its absence lets more in."""
    large = b'{"prompt": "' + b"x" * (2 << 20) + b'"}'
    kind = {"Content-Type": "application/json"}
    for path in ("/api/v1/jobs", "/v1/images/generations"):
        assert ask(server, path, large, headers=kind).status == 413
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(
            b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        told = b""
        try:
            for _ in range(64):
                line.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        except OSError:
            pass  # it has been told, and hung up on
        line.settimeout(10)
        try:
            told = line.recv(100)
        except OSError:
            told = b"HTTP/1.1 413 "  # reset before it could be read, which says the same
    assert told.startswith(b"HTTP/1.1 413 ")
    assert alive(server)


def test_parts_of_a_form_are_counted(server: Server) -> None:
    head = "Content-Disposition: form-data; name=x\r\n\r\n1\r\n"
    body = "".join(f"--b\r\n{head}" for _ in range(40)) + "--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert ask(server, "/v1/images/edits", body.encode(), headers=kind).status == 400
    broken = ask(server, "/v1/images/edits", b"--b\r\nrubbish", headers=kind)
    assert broken.status == 400
    kind = {"Content-Type": "multipart/form-data"}
    assert ask(server, "/v1/images/edits", b"", headers=kind).status == 400


def bomb(side: int) -> bytes:
    """A PNG of few bytes that says it has side² pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_an_image_bomb_is_known_by_its_header(server: Server) -> None:
    file = bomb(30_000)
    data = base64.b64encode(file).decode()
    begun = time.process_time()
    told = ask(server, "/api/v1/pictures", file, method="PUT")
    assert told.status == 422 and "too large" in told.json["error"]["what"]
    body = {"prompt": "x", "image_prompts": [{"image": data}]}
    assert ask(server, "/v1/images/generations", body).status == 400
    unit = {"module": "ip-adapter-auto", "image": data}
    body = {"alwayson_scripts": {"controlnet": {"args": [unit]}}}
    assert ask(server, "/sdapi/v1/txt2img", body).status == 422
    assert time.process_time() - begun < 5  # decoded, each would be 2.7 GB
    assert alive(server)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM"])
def test_other_formats_are_refused(server: Server, kind: str) -> None:
    import io

    file = io.BytesIO()
    reference().save(file, kind)
    assert ask(server, "/api/v1/pictures", file.getvalue(), method="PUT").status == 422
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    assert ask(server, "/api/v1/pictures", svg, method="PUT").status == 422


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/results/..%2f..%2fetc%2fpasswd",
        "/api/v1/results/../../etc/passwd",
        "/api/v1/jobs/../../../etc/passwd",
        "/api/v1/jobs/%2e%2e",
        "/page/../app.py",
        "/page/..%2fapp.py",
        "/page/%2e%2e%2fapp.py",
        "/v1/models/..%2f..%2fetc",
        "/api/v1/results/" + "0" * 32,
        "/api/v1/results/" + "0" * 31 + "/",
    ],
)
def test_ids_are_no_paths(server: Server, path: str) -> None:
    told = ask(server, path)
    assert told.status in (404, 422)
    assert b"root:" not in told.body and b"import" not in told.body


def test_pictures_go_out_as_what_they_are(server: Server) -> None:
    job = ask(server, "/api/v1/jobs", {"request": {"prompt": "x"}}).json
    ask(server, job["links"]["events"])
    done = ask(server, job["links"]["self"]).json
    told = ask(server, done["images"][0]["url"])
    assert told.headers["x-content-type-options"] == "nosniff"
    assert told.headers["content-type"] == "image/png"
    assert "default-src 'self'" in told.headers["content-security-policy"]
    assert b"/secret" not in told.body  # nor where the model lies
    assert b"/secret" not in ask(server, "/api/v1/jobs").body
    assert "access-control-allow-origin" not in told.headers


def test_a_client_that_sends_nothing_is_let_go(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(
            b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        line.settimeout(30)
        assert line.recv(100).startswith(b"HTTP/1.1 408 ")
    assert alive(server)


def test_a_client_that_takes_nothing_is_let_go() -> None:
    """A stream of events to a reader that has fallen asleep ends, and gives its place back."""
    limits = Limits(silent_s=0.3, streams=1)
    with paper_server(limits) as (server, _):
        call = {
            "request": {"num_inference_steps": 1000, "width": 8, "height": 8, "preview": "latent"}
        }
        job = ask(server, "/api/v1/jobs", call).json
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            line.connect(("127.0.0.1", server.port))
            for _ in range(40):  # many requests on one line, none of whose answers is read
                line.sendall(
                    f"GET {job['links']['events']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                )
            until = time.monotonic() + 20
            while ask(server, job["links"]["events"]).status == 503 and time.monotonic() < until:
                time.sleep(0.1)
        assert ask(server, job["links"]["events"]).status == 200


def test_a_hundred_tabs() -> None:
    """64 follow a job; each of the others is told to come again, and the job goes on. When tabs are
    closed, their places are free."""
    with paper_server() as (server, engine):
        engine.gate.clear()
        job = ask(server, "/api/v1/jobs", {"request": {}}).json
        path = job["links"]["events"]
        lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        first = []
        for line in lines:
            line.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            first.append(line.recv(12))
        assert first == [b"HTTP/1.1 200"] * 64 + [b"HTTP/1.1 503"] * 36
        told = ask(server, path)
        assert told.status == 503 and told.headers["retry-after"]
        assert ask(server, job["links"]["self"]).json["state"] == "running"
        for line in lines:
            line.close()
        engine.gate.set()
        answers: list[int] = []
        until = time.monotonic() + 20
        while time.monotonic() < until and 200 not in answers:
            answers.append(ask(server, path).status)
        assert answers[-1] == 200


def test_refusals_are_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ipa.serve"):
        ask(server, "/api/v1/models", headers={"Host": "evil.com"})
    assert "evil.com" in caplog.text and "refused" in caplog.text


def test_a_full_queue_says_when_to_come_again() -> None:
    """Many threads against two places: each is answered once, by 429 or by its pictures."""
    with paper_server(Limits(queue=2)) as (server, engine):
        engine.gate.clear()
        assert ask(server, "/api/v1/jobs", {"request": {}}).status == 202
        engine.begun.acquire()
        statuses: list[int] = []

        def client() -> None:
            told = ask(server, "/v1/images/generations", {"prompt": "x"})
            statuses.append(told.status)
            if told.status == 429:
                assert told.headers["retry-after"] == "5"
                assert told.json["error"]["type"] == "rate_limit_error"

        threads = [threading.Thread(target=client) for _ in range(12)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 20
        while len(statuses) < 10 and time.monotonic() < until:
            time.sleep(0.01)
        engine.gate.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] * 2 + [429] * 10
        assert alive(server)


def test_a_client_that_goes_cancels_its_job() -> None:
    with paper_server() as (server, engine):
        engine.gate.clear()
        body = b'{"prompt": "x"}'
        for path in ("/sdapi/v1/txt2img", "/v1/images/generations"):
            line = socket.create_connection(("127.0.0.1", server.port))
            line.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            engine.begun.acquire()
            line.close()
        job = server.desk.records()[0].job
        job.exception(timeout=20)
        assert {one.job.state for one in server.desk.records()} <= {"cancelled", "running"}
        server.desk.records()[1].job.exception(timeout=20)
        assert {one.job.state for one in server.desk.records()} == {"cancelled"}
        engine.gate.set()
        assert ask(server, "/sdapi/v1/txt2img", {"prompt": "x"}).status == 200


def test_old_results_are_forgotten() -> None:
    with paper_server(Limits(kept_jobs=3)) as (server, _):
        bodies = [ask(server, "/v1/images/generations", {"prompt": "x"}) for _ in range(6)]
        assert {one.status for one in bodies} == {200}
        assert len(server.desk.records()) == 3
    with paper_server(Limits(kept_bytes=8 * 8 * 3 * 2)) as (server, _):
        for _ in range(4):
            ask(server, "/v1/images/generations", {"prompt": "x"})
        assert len(server.desk.records()) == 2


def test_no_address_is_fetched_for_a_picture(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    before = socket.getaddrinfo

    def watched(host: object, *rest: object, **options: object) -> object:
        asked.append(host)
        return before(host, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    url = "http://example.invalid/x.png"
    bodies = {
        "/v1/images/generations": {"prompt": "x", "image_prompts": [{"image": url}]},
        "/sdapi/v1/img2img": {"init_images": [url]},
        "/api/v1/jobs": {"request": {"image": url}},
    }
    for path, body in bodies.items():
        told = ask(server, path, body)
        assert told.status in (400, 422) and b"never fetched" in told.body
    assert set(asked) <= {"127.0.0.1"}


def test_previews_and_events_can_be_taken_up_again(server: Server) -> None:
    call = {"request": {"num_inference_steps": 3, "preview": "latent"}}
    job = ask(server, "/api/v1/jobs", call).json
    whole = ask(server, job["links"]["events"]).body.decode()
    ids = [int(line[4:]) for line in whole.splitlines() if line.startswith("id: ")]
    assert ids == sorted(set(ids)) and whole.count("event: done") == 1
    rest = ask(server, job["links"]["events"], headers={"Last-Event-ID": str(ids[1])}).body.decode()
    assert rest == whole[whole.index(f"id: {ids[2]}\n") :]
    for odd in ("-1", "x", "9" * 30):
        again = ask(server, job["links"]["events"], headers={"Last-Event-ID": odd})
        assert again.status == 200
    shown = ask(server, job["links"]["self"] + "/preview")
    assert shown.headers["content-type"] == "image/webp" and shown.body[:4] == b"RIFF"


def test_a_picture_that_was_put_is_named_by_its_pixels(server: Server) -> None:
    image = reference()
    file = base64.b64decode(base64_of(image))
    told = ask(server, "/api/v1/pictures", file, method="PUT").json
    assert (told["width"], told["height"]) == image.size
    entry = {"image": {"sha256": told["sha256"]}}
    assert ask(server, "/api/v1/jobs", {"request": {"image_prompts": [entry]}}).status == 202
    entry = {"image": {"sha256": "0" * 64}}
    lost = ask(server, "/api/v1/jobs", {"request": {"image_prompts": [entry]}})
    assert lost.status == 422 and "not here" in lost.json["error"]["what"]
