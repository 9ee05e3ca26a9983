"""The studio's routes and folder without a browser: kept, restored, refused, written as code."""

from __future__ import annotations

import hashlib
import http.client
import importlib.resources
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipa import demo
from ipa.app.commands.studio import free_port
from ipa.errors import RequestError
from ipa.serve.server import Server
from ipa.studio.folder import Folder
from oracle.served import Answer, ask, picture_of

MOST_BYTES = 150_000


def put(server: Server, file: bytes, path: str = "/studio/pictures", method: str = "PUT") -> Answer:
    return ask(server, path, file, method=method)


def finished(server: Server, job: dict[str, Any], form: Any = None) -> list[str]:
    """The names of the pictures of a job that has ended."""
    sent = ask(server, "/studio/jobs", {"job": job, "form": form})
    assert sent.status == 202, sent.body
    ask(server, f"/api/v1/jobs/{sent.json['id']}/events")  # to its end
    before = time.monotonic()
    while time.monotonic() - before < 30:
        for name in ask(server, "/studio/gallery").json["names"]:
            told = ask(server, f"/studio/gallery/{name}/settings").json
            if told["id"] == sent.json["id"]:
                return [name]
        time.sleep(0.02)
    raise AssertionError("the picture was not kept")


def job_of(server: Server) -> dict[str, Any]:
    picture = put(server, demo.references()[1].read_bytes()).json
    entry = {"image": {"sha256": picture["sha256"]}, "scale": 0.8, "fit": [0, 0, 0.5, 0.5]}
    small = {"width": 16, "height": 16, "num_inference_steps": 2}
    return {"request": {"prompt": "a star", "image_prompts": [entry], "seed": 5, **small}}


def pixels(file: bytes) -> str:
    return hashlib.sha256(np.asarray(picture_of(file)).tobytes()).hexdigest()


def test_a_picture_brings_back_what_made_it_bit_for_bit(server: Server, folder: Path) -> None:
    form = {"version": 1, "prompt": "a star"}
    (name,) = finished(server, job_of(server), form)
    file = (folder / f"{name}.png").read_bytes()
    told = put(server, file, "/studio/restore", "POST").json
    assert told["form"] == form and told["not_restored"] == []
    (again,) = finished(server, told["job"])
    assert again != name
    assert pixels(file) == pixels((folder / f"{again}.png").read_bytes())


def test_pictures_of_the_last_start_are_here(
    opened: Callable[[Path], Server], tmp_path: Path
) -> None:
    """What the page asks on its own finds them as a job does."""
    with opened(tmp_path) as first:
        job = job_of(first)
    with opened(tmp_path) as second:
        assert ask(second, "/api/v1/plan", job).status == 200
        view = {"image_prompt": job["request"]["image_prompts"][0]}
        assert len(ask(second, "/api/v1/encoder-view", view).json["images"]) == 1
        assert finished(second, job)


def test_each_picture_of_a_batch_comes_back_alone(server: Server, folder: Path) -> None:
    job = job_of(server)
    job["request"]["num_images"] = 2
    finished(server, job)
    names = ask(server, "/studio/gallery").json["names"][:2]
    for name in names:
        told = ask(server, f"/studio/gallery/{name}/settings").json
        (alone,) = finished(server, told["job"])
        file = (folder / f"{name}.png").read_bytes()
        assert pixels(file) == pixels((folder / f"{alone}.png").read_bytes())


def test_what_cannot_come_back_is_listed(server: Server, folder: Path) -> None:
    (name,) = finished(server, job_of(server))
    file = (folder / f"{name}.png").read_bytes()
    kept = list((folder / "made of").glob("*.png"))
    moved = [path.rename(path.with_suffix(".away")) for path in kept]
    try:
        # The demo's own pictures are always at hand, so it is one of nobody's that is missing.
        own = Image.fromarray(np.full((8, 8, 3), 7, np.uint8))
        job = job_of(server)
        made = io.BytesIO()
        own.save(made, "PNG")
        sha256 = put(server, made.getvalue()).json["sha256"]
        job["request"]["image_prompts"][0]["image"] = {"sha256": sha256}
        (other,) = finished(server, job)
        (folder / "made of" / f"{sha256}.png").unlink()
        told = ask(server, f"/studio/gallery/{other}/settings").json
        assert told["pictures"] == [] and sha256[:12] in told["not_restored"][0]
        assert put(server, file, "/studio/restore", "POST").json["not_restored"] == []
    finally:
        for path in moved:
            path.rename(path.with_suffix(".png"))


def test_a_picture_of_a1111_gives_what_it_can(server: Server) -> None:
    text = PngInfo()
    text.add_text(
        "parameters",
        "a castle\nNegative prompt: fog\nSteps: 9, Sampler: Euler a, CFG scale: 6, Seed: 3, "
        "Size: 64x32, Model: dream, Hires upscale: 2",
    )
    made = io.BytesIO()
    Image.new("RGB", (8, 8)).save(made, "PNG", pnginfo=text)
    told = put(server, made.getvalue(), "/studio/restore", "POST").json
    request = told["job"]["request"]
    assert (request["prompt"], request["negative_prompt"]) == ("a castle", "fog")
    assert (request["num_inference_steps"], request["seed"], request["width"]) == (9, 3, 64)
    assert any("dream" in one for one in told["not_restored"])
    assert any("Hires" in one for one in told["not_restored"])


def test_a_telephones_picture_stands_upright(server: Server) -> None:
    wide = Image.new("RGB", (40, 20))
    exif = wide.getexif()
    exif[0x0112] = 6
    made = io.BytesIO()
    wide.save(made, "JPEG", exif=exif)
    told = put(server, made.getvalue()).json
    assert (told["width"], told["height"]) == (20, 40)


@pytest.mark.parametrize(
    "file",
    [b"", b"no picture", b"GIF89a" + bytes(40), b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
)
def test_files_that_are_no_pictures_are_refused(server: Server, file: bytes) -> None:
    refused = put(server, file)
    assert refused.status == 422 and refused.json["error"]["what"]


def test_a_disk_that_takes_nothing_is_told_and_the_queue_goes_on(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RequestError("it cannot be written", found="No space left on device")

    job = job_of(server)
    monkeypatch.setattr("ipa.studio.folder.write_whole", full)
    sent = ask(server, "/studio/jobs", {"job": job})
    ask(server, f"/api/v1/jobs/{sent.json['id']}/events")
    before = time.monotonic()
    while "error" not in (told := _told(server, sent.json["id"])):  # it is kept after its end
        assert time.monotonic() - before < 30
    monkeypatch.undo()
    finished(server, job)
    assert _told(server, sent.json["id"]) == told
    assert "No space left" in told["error"] and told["saved"] == []


def _told(server: Server, job_id: str) -> dict[str, Any]:
    """What every page is told of a job."""
    (told,) = [one for one in _first_state(server)["jobs"] if one["id"] == job_id]
    return dict(told)


def _first_state(server: Server) -> dict[str, Any]:
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    line.request("GET", "/studio/events", headers={"Host": f"127.0.0.1:{server.port}"})
    answer = line.getresponse()
    try:
        while True:
            text = answer.readline().decode()
            if text.startswith("data: "):
                found: dict[str, Any] = json.loads(text[6:])
                return found
    finally:
        line.close()


def test_the_bin_and_back(server: Server, folder: Path) -> None:
    (name,) = finished(server, job_of(server))
    assert ask(server, f"/studio/gallery/{name}", method="DELETE").status == 200
    assert name not in ask(server, "/studio/gallery").json["names"]
    assert (folder / "bin" / f"{name}.png").is_file()
    assert ask(server, f"/studio/gallery/{name}").status == 404
    assert ask(server, f"/studio/gallery/{name}/back", {}).status == 200
    assert name in ask(server, "/studio/gallery").json["names"]


def test_names_that_are_paths_reach_nothing(server: Server) -> None:
    for path in ("gallery/..%2F..%2Fetc%2Fpasswd", "files/../studio.py", "files/..%2Fstudio.py"):
        assert ask(server, f"/studio/{path}").status in (404, 422)


def test_the_page_is_small_and_of_this_server_alone(server: Server) -> None:
    root = Path(str(importlib.resources.files("ipa.studio"))) / "static"
    files = [path for path in root.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for path in files:
        got = ask(server, f"/studio/files/{path.relative_to(root)}")
        assert got.status == 200 and got.body == path.read_bytes()
        assert got.headers["content-security-policy"].startswith("default-src 'self'")
    for path in (one for one in files if one.parent.name != "vendor"):
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text, path


def test_code_runs_again_to_the_same_picture(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = finished(server, job_of(server))
    code = ask(server, f"/studio/gallery/{name}/code?as=python").json["text"]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "code", "exec"), {})
    assert pixels((tmp_path / "out.png").read_bytes()) == pixels(
        (folder / f"{name}.png").read_bytes()
    )
    for way in ("cli", "diffusers", "curl"):
        assert "star" in ask(server, f"/studio/gallery/{name}/code?as={way}").json["text"]
    curl = ask(server, f"/studio/gallery/{name}/code?as=curl").json["text"]
    assert f"127.0.0.1:{server.port}/api/v1/jobs" in curl
    assert ask(server, f"/studio/gallery/{name}/code?as=basic").status == 404


def test_a_taken_port_gives_way_to_the_next(server: Server) -> None:
    assert free_port(server.port) > server.port


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(RequestError, match="is a file"):
        Folder(tmp_path / "a")
