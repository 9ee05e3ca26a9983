"""Our own API over the demo model: jobs, pictures, maps, the encoder's view, and what is told."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest

import ipa
from ipa import ImagePrompt, demo
from ipa.serve.desk import Desk
from ipa.serve.offers import Offers
from ipa.serve.server import Server
from oracle.served import OFFERS, ask, base64_of, picture_of, reference

SMALL = {"width": 16, "height": 16, "num_inference_steps": 2}
ENTRY = {"image": {"data": base64_of(reference())}, "scale": 0.8}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(Desk(Offers.of(["demo"], OFFERS)), port=0) as made:
        yield made


def finished(server: Server, job: dict[str, Any]) -> dict[str, Any]:
    sent = ask(server, "/api/v1/jobs", job)
    assert sent.status == 202, sent.body
    ask(server, sent.json["links"]["events"])  # to its end
    told: dict[str, Any] = ask(server, sent.json["links"]["self"]).json
    return told


def test_a_picture_is_the_pipelines(server: Server) -> None:
    """Bit for bit that of a pipeline which got the same request in Python."""
    pipe = ipa.load("demo")
    pipe.load_ip_adapter(demo.adapter("base"), name="base")
    prompts = [ImagePrompt(reference(), adapter="base", scale=0.8)]
    alone = pipe("a star", image_prompts=prompts, seed=3, **SMALL).images[0]
    request = {"prompt": "a star", "image_prompts": [ENTRY], "seed": 3, **SMALL}
    told = finished(server, {"request": request})
    assert told["state"] == "completed" and told["info"]["model"] == "demo"
    got = picture_of(ask(server, told["images"][0]["url"]).body)
    hashes = {hashlib.sha256(np.asarray(one).tobytes()).hexdigest() for one in (alone, got)}
    assert len(hashes) == 1
    for kind in ("jpeg", "webp"):
        file = ask(server, f"{told['images'][0]['url']}?format={kind}")
        assert picture_of(file.body).format == kind.upper()


def test_a_job_that_fails_says_which_field(server: Server) -> None:
    told = finished(server, {"request": SMALL | {"width": 17}})
    assert told["state"] == "failed"
    assert told["error"]["field"] == "width" and told["error"]["remedy"]


def test_influence_of_a_job_that_asked_for_it(server: Server) -> None:
    request = {"image_prompts": [ENTRY], "influence": True, **SMALL}
    told = finished(server, {"request": request})
    assert told["has_influence"]
    path = f"/api/v1/jobs/{told['id']}/influence"
    whole = picture_of(ask(server, path).body)
    assert whole.mode == "L" and np.asarray(whole).any()
    assert ask(server, f"{path}?section=mid").body != ask(server, path).body
    assert ask(server, f"{path}?prompt=1").status == 422
    without = finished(server, {"request": SMALL})
    assert ask(server, f"/api/v1/jobs/{without['id']}/influence").status == 404


def test_what_the_encoder_sees(server: Server) -> None:
    pipe = ipa.load("demo")
    pipe.load_ip_adapter(demo.adapter("base"))
    wide = reference().resize((96, 64))
    (view,) = pipe.encoder_views(ImagePrompt(wide, fit="pad"))
    body = {"image_prompt": {"image": base64_of(wide), "fit": "pad"}}
    told = ask(server, "/api/v1/encoder-view", body)
    assert np.array_equal(np.asarray(picture_of(told.json["images"][0])), np.asarray(view))
    for wrong in ({}, {"image_prompt": {}}, {"image_prompt": {"image": "x"}}):
        assert ask(server, "/api/v1/encoder-view", wrong).status == 422


def test_a_plan_is_the_pipelines(server: Server) -> None:
    pipe = ipa.load("demo")
    pipe.load_ip_adapter(demo.adapter("base"), name="base")
    prompts = [ImagePrompt(reference(), adapter="base")]
    alone = pipe.plan(image_prompts=prompts, width=64, height=64)
    job = {"request": {"image_prompts": [ENTRY], "width": 64, "height": 64}}
    told = ask(server, "/api/v1/plan", job)
    assert told.status == 200 and told.json["peak"] == alone.peak
    wrong = {"request": {"width": 17, "height": 64}}
    assert ask(server, "/api/v1/plan", wrong).json["error"]["field"] == "width"


def test_cancelling(server: Server) -> None:
    long = {"request": SMALL | {"num_inference_steps": 900}}
    jobs = [ask(server, "/api/v1/jobs", long).json for _ in range(2)]
    for job in jobs:
        assert ask(server, job["links"]["self"], method="DELETE").json["was"] in (
            "queued",
            "running",
        )
    for job in jobs:
        events = ask(server, job["links"]["events"]).body.decode()
        assert events.count("event: cancelled") == 1
        told = ask(server, job["links"]["self"]).json
        assert told["state"] == "cancelled" and told["error"]["code"] == "cancelled"
    assert ask(server, jobs[0]["links"]["self"], method="DELETE").json["was"] == "cancelled"


def test_words_about_the_server(server: Server) -> None:
    offered = ask(server, "/api/v1/models").json
    assert offered["models"] == ["demo"] and offered["adapters"] == ["base", "plus_sd15"]
    told = ask(server, "/api/v1/capabilities").json
    assert told["limits"]["queue"] == 16 and "dpmpp_2m_karras" in told["samplers"]
    schema = ask(server, "/api/v1/schema").json
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"prompt": "x", "image_prompts": [ENTRY]}, schema)
    state = ask(server, "/api/v1/jobs").json["engine"]
    assert state["loaded"][0]["model"] == "demo"


def test_the_page_needs_nothing_but_this_server(server: Server) -> None:
    page = ask(server, "/", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    for name in ("page.js", "page.css"):
        assert f"/page/{name}".encode() in page.body
        assert ask(server, f"/page/{name}").status == 200
    for body in (page.body, *(ask(server, f"/page/{n}").body for n in ("page.js", "page.css"))):
        assert b"http://" not in body and b"https://" not in body and b"//cdn" not in body
    described = ask(server, "/openapi.json").json
    assert {"/v1/images/edits", "/sdapi/v1/txt2img", "/api/v1/jobs"} <= described["paths"].keys()
    assert json.dumps(described).count("#/$defs/") == 0
    assert ask(server, "/docs").status == ask(server, "/redoc").status == 404


def test_a_picture_in_base64_may_have_the_head_of_a_data_address(server: Server) -> None:
    head = "data:image/png;base64," + base64_of(reference())
    job = ask(server, "/api/v1/jobs", {"request": {"image_prompts": [{"image": head}], **SMALL}})
    assert job.status == 202
    broken = {"image": "data:image/png;base64," + base64.b64encode(b"no picture").decode()}
    assert ask(server, "/api/v1/jobs", {"request": {"image_prompts": [broken]}}).status == 422
