"""The engine: every job ends once, with the picture that a pipeline alone would make."""

from __future__ import annotations

import asyncio
import hashlib
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import ipa
from ipa import Engine, ImagePrompt, Job, demo
from ipa.engine.engine import JobOptions
from ipa.errors import (
    Cancelled,
    CheckpointError,
    DeadlineExceeded,
    EngineBusy,
    EngineClosed,
    RequestError,
)

SMALL = {"height": 16, "width": 16, "num_inference_steps": 1}
NEEDS: dict[str, dict[str, Any]] = {
    "bare": {"model": "demo"},
    "base": {"adapters": ["a=demo:base"]},
    "plus": {"adapters": ["a=demo:plus"]},
    "other": {"backend": "torch", "adapters": ["a=demo:base"]},
    "two": {"adapters": ["a=demo:base", "b=demo:plus"], "controlnets": ["demo:edges"]},
}


@pytest.fixture(scope="module")
def reference() -> Any:
    return ipa.open_image(demo.references()[3])


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(queue=400) as made:
        yield made


def arguments(kind: str, reference: Any, seed: int) -> dict[str, Any]:
    """A call that shows every part of its needs."""
    names = [name.partition("=")[0] for name in NEEDS[kind].get("adapters", ())]
    prompts = [ImagePrompt(reference, adapter=name, scale=0.8) for name in names]
    return SMALL | {"prompt": "a red star", "image_prompts": prompts, "seed": seed}


def pixels(result: ipa.Result) -> str:
    return hashlib.sha256(np.asarray(result.images[0]).tobytes()).hexdigest()


def alone(kind: str, reference: Any) -> dict[tuple[str, int], str]:
    """The pictures of a pipeline that has loaded nothing else."""
    needs = NEEDS[kind]
    pipe = ipa.load("demo", backend=needs.get("backend"))
    for entry in needs.get("adapters", ()):
        name, _, source = entry.partition("=")
        pipe.load_ip_adapter(source, name=name)
    for source in needs.get("controlnets", ()):
        pipe.load_controlnet(source)
    return {(kind, n): pixels(pipe(**arguments(kind, reference, n))) for n in (0, 1)}


@pytest.fixture(scope="module")
def lone(reference: Any) -> dict[tuple[str, int], str]:
    return {key: value for kind in NEEDS for key, value in alone(kind, reference).items()}


def seen(pipe: ipa.Pipeline) -> Iterator[str]:
    """The names of the adapters that a call would see."""
    return iter(pipe._seen.snapshot()[0].adapters)


class Gate:
    """Holds an engine in a call, so that a test can fill its queue."""

    def __init__(self, engine: Engine) -> None:
        self._open, self._begun = threading.Event(), threading.Event()
        self.job = engine.call("demo", self._wait)
        self._begun.wait()

    def _wait(self, _: Any) -> None:
        self._begun.set()
        self._open.wait()

    def open(self) -> None:
        self._open.set()


def test_many_threads_swaps_cancels_and_bad_jobs(
    engine: Engine, reference: Any, lone: dict[tuple[str, int], str]
) -> None:
    """160 jobs from 8 threads, 40 from asyncio: each ends once, in the state that it should.

    Two of five make a picture; the others ask what they see, which takes no time. All of them of
    pictures: `benchmarks.engine`.
    """
    dice = random.Random(7)
    ends: dict[str, int] = {}
    lock = threading.Lock()

    def count(job: Job[Any]) -> None:
        with lock:
            ends[job.id] = ends.get(job.id, 0) + 1

    def submit(number: int) -> tuple[Job[Any], str, int]:
        kind = list(NEEDS)[number // 2 % len(NEEDS)]
        options: JobOptions = {"job_id": str(number), "priority": number % 3}
        job: Job[Any]
        if number % 9 == 4:
            kind, call = "bad", SMALL | {"prompt": "a star", "num_images": 0}
            job = engine.submit("demo", call, **options)
        elif number % 5 in (0, 3):
            job = engine.submit(NEEDS[kind], arguments(kind, reference, number % 2), **options)
        else:
            job = engine.call(NEEDS[kind], lambda pipe: sorted(seen(pipe)), **options)
        job.add_done_callback(count)
        if number % 7 == 3:
            threading.Timer(dice.random() * 0.5, job.cancel).start()
        return job, kind, number % 2

    async def in_asyncio(numbers: range) -> list[tuple[Job[Any], str, int]]:
        made = [submit(number) for number in numbers]
        await asyncio.gather(*(job for job, _, _ in made), return_exceptions=True)
        return made

    with ThreadPoolExecutor(8) as threads:
        later = [threads.submit(submit, number) for number in range(160)]
        made = asyncio.run(in_asyncio(range(160, 200)))
        made += [one.result() for one in later]
    pictures = 0
    for job, kind, seed in made:
        error = job.exception(timeout=120)
        if kind == "bad":
            assert isinstance(error, (RequestError, Cancelled))
        elif isinstance(error, Cancelled):
            assert int(job.id) % 7 == 3
            assert job.state == "cancelled"
        else:
            assert error is None, error
            found = job.result()
            if isinstance(found, list):
                wanted = NEEDS[kind].get("adapters", ())
                assert found == sorted(entry.partition("=")[0] for entry in wanted)
            else:
                assert pixels(found) == lone[kind, seed], (job.id, kind)
                pictures += 1
    assert pictures > 40
    assert ends == {str(number): 1 for number in range(200)}
    assert engine.state()["waiting"] == []
    assert engine.state()["done"] >= 100


@pytest.mark.parametrize("kind", NEEDS)
def test_pictures_are_those_of_a_pipeline_alone(
    engine: Engine, reference: Any, lone: dict[tuple[str, int], str], kind: str
) -> None:
    for other in NEEDS:  # whatever is loaded beside it
        engine.submit(NEEDS[other], arguments(other, reference, 1)).result()
    job = engine.submit(NEEDS[kind], arguments(kind, reference, 0))
    assert pixels(job.result()) == lone[kind, 0]


def test_the_default_scale_is_each_job_s_own(engine: Engine, reference: Any) -> None:
    def made(scale: float) -> str:
        part = {"source": "demo:base", "name": "a", "scale": scale}
        call = SMALL | {"prompt": "x", "image_prompts": [ImagePrompt(reference)]}
        return pixels(engine.submit({"adapters": [part]}, call).result())

    weak, strong = made(0.1), made(1.0)
    assert weak != strong
    assert made(0.1) == weak


def test_a_job_sees_only_what_it_needs(engine: Engine, reference: Any) -> None:
    engine.submit(NEEDS["two"], arguments("two", reference, 0)).result()
    job = engine.submit("demo", SMALL | {"image_prompts": [ImagePrompt(reference, adapter="a")]})
    with pytest.raises(RequestError, match="adapter"):
        job.result()


def test_another_source_takes_the_place_of_a_name(engine: Engine) -> None:
    for kind in ("base", "plus", "base"):
        engine.load(NEEDS[kind]).result()
    assert engine.state()["loaded"][0]["adapters"] == ["a"]


def test_events_in_order_and_for_every_reader(engine: Engine, reference: Any) -> None:
    told: list[ipa.Progress] = []
    call = arguments("base", reference, 0) | {"num_inference_steps": 3, "preview": "latent"}
    job = engine.submit(NEEDS["base"], call, on_event=lambda job, event: told.append(event))
    first = [event.stage for event in job.events() if event.unit != "bytes"]
    again = list(job.events())
    loaded = [event for event in again if event.unit == "bytes"]
    assert all(event.stage == "load" for event in loaded)
    assert loaded[-1].step == loaded[-1].total > 1_000_000
    again = [event for event in again if event.unit != "bytes"]
    steps = ["load", "load", "encode", "encode", *["denoise"] * 3, "decode", "decode", "done"]
    assert first == [event.stage for event in again] == steps
    assert [event.stage for event in told if event.unit != "bytes"] == steps
    assert sum(event.preview is not None for event in again) <= 1  # of older ones nothing is kept


def test_asyncio_follows_and_cancels(engine: Engine, reference: Any) -> None:
    async def follow() -> list[str]:
        job = engine.submit("demo", SMALL | {"num_inference_steps": 2})
        stages = [event.stage async for event in job]
        await job
        return stages

    async def leave() -> Job[Any]:
        job = engine.submit("demo", SMALL | {"num_inference_steps": 900})
        task = asyncio.ensure_future(_result(job))
        async for event in job:
            if event.stage == "denoise":
                break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return job

    assert asyncio.run(follow())[-1] == "done"
    left = asyncio.run(leave())
    assert isinstance(left.exception(timeout=60), Cancelled)


async def _result(job: Job[Any]) -> Any:
    return await job


def test_cancel_stops_within_one_evaluation(engine: Engine) -> None:
    seen: list[int] = []

    def stop(job: Job[Any], event: ipa.Progress) -> None:
        if event.stage == "denoise":
            seen.append(event.step)
            if event.step == 3:
                assert job.cancel() == "running"

    job = engine.submit("demo", SMALL | {"num_inference_steps": 50}, on_event=stop)
    with pytest.raises(Cancelled):
        job.result()
    assert seen == [1, 2, 3]
    assert job.cancel() == "cancelled"
    assert engine.submit("demo", SMALL).result().images


def test_queue_priorities_and_limits() -> None:
    with Engine(queue=4) as engine:
        gate = Gate(engine)
        order: list[str] = []
        jobs = []
        for name, priority in (("low", 0), ("late", 0), ("high", 5), ("gone", 1)):
            job = engine.call("demo", lambda _, name=name: order.append(name), priority=priority)
            jobs.append(job)
        with pytest.raises(EngineBusy, match="4 jobs wait"):
            engine.submit("demo", SMALL)
        assert jobs[3].cancel() == "queued"
        with pytest.raises(Cancelled):
            jobs[3].result()
        gate.open()
        for job in jobs[:3]:
            job.result()
        assert order == ["high", "low", "late"]


def test_two_models_share_fairly() -> None:
    """The model at hand may pass older jobs, but only a few in a row."""
    with Engine() as engine:
        gate = Gate(engine)
        order: list[str] = []
        jobs = [
            engine.call({"dtype": dtype}, lambda _, dtype=dtype: order.append(str(dtype)))
            for dtype in [None, "float16"] * 8
        ]
        gate.open()
        for job in jobs:
            job.result()
    rows = [len(row) for row in "".join(name[0] for name in order).replace("Nf", "N f").split()]
    assert rows[0] > 1, order  # not a swap for every job
    longest = max(len(list(row)) for row in _rows(order))
    assert longest <= 4, order


def _rows(order: list[str]) -> Iterator[list[str]]:
    row: list[str] = []
    for name in order:
        if row and row[-1] != name:
            yield row
            row = []
        row.append(name)
    yield row


def test_deadlines() -> None:
    with Engine() as engine:
        gate = Gate(engine)
        waits = engine.submit("demo", SMALL, deadline_s=0.05)
        with pytest.raises(DeadlineExceeded, match="queued"):
            waits.result(timeout=30)  # though the engine is busy
        gate.open()
        runs = engine.submit("demo", SMALL | {"num_inference_steps": 900}, deadline_s=0.5)
        with pytest.raises(DeadlineExceeded, match="running"):
            runs.result(timeout=60)
        assert (waits.state, runs.state) == ("failed", "failed")


def test_models_are_forgotten_when_idle_or_too_many() -> None:
    with Engine(max_models=1, idle_unload_s=0.2) as engine:
        engine.load("demo").result()
        engine.load({"dtype": "float16"}).result()
        assert len(engine.state()["loaded"]) == 1
        for _ in range(100):
            if not engine.state()["loaded"]:
                break
            threading.Event().wait(0.1)
        assert engine.state()["loaded"] == []
        assert engine.submit("demo", SMALL).result().images


def test_a_budget_is_kept_by_two_models(reference: Any, lone: dict[tuple[str, int], str]) -> None:
    """Two models of 35 MB in 0.0625 GiB: weights of one at a time, and the same pictures."""
    budget, held = 0.0625, mx.get_active_memory()
    with Engine(memory_budget=budget) as engine:
        engine.load({"dtype": "float16"}).result()
        mx.reset_peak_memory()
        for kind in ("base", "plus", "base"):
            engine.load({"dtype": "float16"}).result()
            job = engine.submit(NEEDS[kind], arguments(kind, reference, 0))
            assert pixels(job.result()) == lone[kind, 0]
        assert len(engine.state()["loaded"]) == 2
    assert mx.get_peak_memory() <= budget * (1 << 30) + held


def test_a_callback_that_raises_stops_nothing(engine: Engine) -> None:
    def broken(job: Job[Any], event: ipa.Progress) -> None:
        raise ValueError("of the caller")

    assert engine.submit("demo", SMALL, on_event=broken).result().images


def test_a_fault_ends_its_job_alone(engine: Engine) -> None:
    def fault(_: Any) -> None:
        raise ZeroDivisionError

    job = engine.call("demo", fault)
    with pytest.raises(ZeroDivisionError):
        job.result()
    missing = engine.submit({"adapters": ["no/such.safetensors"]}, SMALL)
    with pytest.raises(CheckpointError):
        missing.result()
    assert engine.submit("demo", SMALL).result().images


@pytest.mark.parametrize("cancel", [False, True])
def test_closing_drains_or_cancels(cancel: bool) -> None:
    engine = Engine()
    gate = Gate(engine)
    jobs = [engine.submit("demo", SMALL) for _ in range(3)]
    threading.Timer(0.1, gate.open).start()
    engine.close(cancel=cancel)
    assert [job.state for job in jobs] == ["cancelled" if cancel else "completed"] * 3
    with pytest.raises(EngineClosed):
        engine.submit("demo", SMALL)
    engine.close()  # twice is once


def test_an_engine_does_not_wait_for_itself(engine: Engine) -> None:
    job = engine.call("demo", lambda _: engine.close())
    with pytest.raises(RequestError, match="cannot wait for itself"):
        job.result()


BAD: dict[str, tuple[Callable[[Engine], Any], str]] = {
    "unknown need": (lambda e: e.submit({"adaptors": []}), "did you mean adapters"),
    "unknown option": (
        lambda e: e.submit({"adapters": [{"source": "x", "wieght_name": "y"}]}),
        "did you mean weight_name",
    ),
    "no source": (lambda e: e.submit({"loras": [{"name": "x"}]}), "says what to load"),
    "number": (lambda e: e.submit({"loras": 3}), "must be a list"),
    "model": (lambda e: e.submit({"model": 3}), "model must be a text"),
    "needs": (lambda e: e.submit(7), "a model's name or an object"),  # type: ignore[arg-type]
    "keyword": (lambda e: e.submit("demo", {"promt": "x"}), "prompt"),
    "deadline": (lambda e: e.submit("demo", SMALL, deadline_s=-1), "seconds above 0"),
    "priority": (lambda e: e.submit("demo", SMALL, priority="high"), "whole number"),  # type: ignore[arg-type]
    "callback": (lambda e: e.submit("demo", SMALL, on_event=3), "function"),  # type: ignore[arg-type]
    "queue": (lambda _: Engine(queue=0), "queue is a whole number"),
    "budget": (lambda _: Engine(memory_budget=-1), "memory_budget must be GiB"),
    "idle": (lambda _: Engine(idle_unload_s=float("nan")), "seconds above 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_at_once(engine: Engine, name: str) -> None:
    ask, words = BAD[name]
    with pytest.raises(RequestError, match=words):
        ask(engine)


def test_needs_go_through_json() -> None:
    needs = ipa.Needs.of(
        {
            "model": "demo",
            "dtype": "float32",
            "adapters": ["a=demo:base", {"source": "demo:plus", "scale": 0.5}],
            "loras": [{"source": "x.safetensors", "fuse": True}],
        }
    )
    assert ipa.Needs.of(needs.to_json()) == needs


def test_a_program_that_forgets_to_close_ends_well() -> None:
    """MLX aborts at exit if a thread that used it ends without a word (its issue 3126)."""
    code = (
        "import ipa; e = ipa.Engine();"
        "e.submit('demo', dict(height=16, width=16, num_inference_steps=1)).result();"
        "e.submit('demo', dict(num_inference_steps=900))"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()[-500:]
