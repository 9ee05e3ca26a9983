"""What HTTP adds to a picture of the demo, and what a server does under load.

PYTHONPATH=tests .venv/bin/python -m benchmarks.serving latency --rounds 40
PYTHONPATH=tests .venv/bin/python -m benchmarks.serving paper --rounds 200
PYTHONPATH=tests .venv/bin/python -m benchmarks.serving load --seconds 60

Latency: the same request by a pipeline, an engine, and each dialect, in turn; medians of what each
took more than the pipeline in its own round. Paper: the same requests where a picture takes no
time, so that all of it is HTTP's, the reference's decoding among it; with less noise. Load: 32
clients against a queue of 16, on an engine of paper: the answers by status, and resident memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import psutil

import ipa
from ipa import Engine, ImagePrompt, demo
from ipa.serve.desk import Desk
from ipa.serve.limits import Limits
from ipa.serve.offers import Offers
from ipa.serve.server import Server
from oracle.served import OFFERS, ask, base64_of, paper_server, reference

_CLIENTS = 32
STEPS = 4
CALL = {"prompt": "a star", "num_inference_steps": STEPS, "seed": 3}


Ways = Mapping[str, Callable[[], object]]


def by_http(server: Server) -> Ways:
    """One request with a reference by each dialect."""
    entry = {"image": base64_of(reference())}
    scripts = {"controlnet": {"args": [{"module": "ip-adapter-auto", **entry}]}}
    words = {"prompt": "a star", "steps": STEPS, "seed": 3}
    call = {**CALL, "image_prompts": [entry]}

    def native() -> None:
        sent = ask(server, "/api/v1/jobs", {"request": call}).json
        ask(server, sent["links"]["events"])
        ended = ask(server, sent["links"]["self"]).json
        ask(server, ended["images"][0]["url"])

    def sent(path: str, body: dict[str, object]) -> Callable[[], object]:
        def send() -> None:
            assert ask(server, path, body).status == 200

        return send

    return {
        "OpenAI": sent("/v1/images/generations", {**words, "image_prompts": [entry]}),
        "A1111": sent("/sdapi/v1/txt2img", {**words, "alwayson_scripts": scripts}),
        "native, four requests": native,
    }


def timed(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each way in each round, the ways in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if number >= 2:  # the first ones load and warm
                taken[name].append((time.perf_counter() - begun) * 1e3)
    return taken


def latency(rounds: int) -> dict[str, float]:
    """Milliseconds that each way adds to the pipeline's own, the median of all rounds."""
    pipe = ipa.load("demo")
    pipe.load_ip_adapter(demo.adapter("base"), name="base")
    image, needs = reference(), {"adapters": ["base=demo:base"]}

    def prompts() -> list[ImagePrompt]:
        return [ImagePrompt(image, adapter="base")]

    with Engine() as engine, Server(Desk(Offers.of(["demo"], OFFERS)), port=0) as server:
        own: Ways = {
            "pipeline": lambda: pipe(image_prompts=prompts(), **CALL),
            "engine": lambda: engine.submit(needs, {"image_prompts": prompts(), **CALL}).result(),
        }
        taken = timed({**own, **by_http(server)}, rounds)
    alone = taken.pop("pipeline")
    added = {
        name: statistics.median(one - own for one, own in zip(times, alone, strict=True))
        for name, times in taken.items()
    }
    return {"pipeline itself": statistics.median(alone), **added}


def paper(rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each way where a picture takes no time."""
    with paper_server() as (server, _):
        taken = timed(by_http(server), rounds)
    return {
        name: {"median": statistics.median(times), "least": min(times)}
        for name, times in taken.items()
    }


def load(seconds: float) -> dict[str, object]:
    """Answers by status, and resident MB at each tenth of the time."""
    body = {"prompt": "x" * 100, "image_prompts": [{"image": base64_of(reference())}]}
    statuses: Counter[int] = Counter()
    lock, until = threading.Lock(), time.monotonic() + seconds
    memory = []
    with paper_server(Limits(queue=16)) as (server, engine):

        def client() -> None:
            while time.monotonic() < until:
                told = ask(server, "/v1/images/generations", body)
                assert told.status != 429 or told.headers["retry-after"]
                with lock:
                    statuses[told.status] += 1

        def gate() -> None:
            while time.monotonic() < until:  # so that the queue is full for most of the time
                engine.gate.clear()
                time.sleep(0.2)
                engine.gate.set()
                time.sleep(0.05)

        threads = [threading.Thread(target=one) for one in [gate, *[client] * _CLIENTS]]
        for thread in threads:
            thread.start()
        while time.monotonic() < until:
            time.sleep(seconds / 10)
            memory.append(round(psutil.Process().memory_info().rss / 1e6, 1))
        engine.gate.set()
        for thread in threads:
            thread.join()
        alive = ask(server, "/api/v1/models").status == 200
    return {"answers": dict(statuses), "resident_MB": memory, "alive": alive}


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["latency", "paper", "load"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    measures: dict[str, Callable[[], object]] = {
        "latency": lambda: latency(given.rounds),
        "paper": lambda: paper(given.rounds),
        "load": lambda: load(given.seconds),
    }
    print(json.dumps(measures[given.what](), indent=2))


if __name__ == "__main__":
    import logging

    logging.disable(logging.WARNING)
    main()
