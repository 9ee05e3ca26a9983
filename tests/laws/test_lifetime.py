"""A pipeline as an app has it: loaded with progress, cancelled, shared, awaited, and closed."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

import ipa
from ipa import Cancelled, PipelineBusy, PipelineClosed, Progress, RequestError, demo
from ipa.watching import Watch, download_bar

SMALL = {"height": 32, "width": 32, "num_inference_steps": 2}


def load(backend: str, **options: Any) -> ipa.Pipeline:
    device = {"device": "cpu"} if backend == "torch" else {}
    return ipa.load("demo", backend=backend, **device, **options)


@pytest.fixture(scope="module")
def pipe(backend: str) -> ipa.Pipeline:
    return load(backend)


def after(count: int) -> Callable[[], bool]:
    """A signal that says to stop when it is asked for the count-th time."""
    asked = iter(range(1 << 30))
    return lambda: next(asked) >= count


VERBS: dict[str, tuple[str, dict[str, Any]]] = {
    "load_ip_adapter": ("adapters", {"source": "demo:plus", "name": "new"}),
    "load_controlnet": ("controlnets", {"source": demo.controlnet(), "name": "new"}),
}


def test_loading_tells_how_far_it_is(backend: str) -> None:
    told: list[Progress] = []
    load(backend, on_progress=told.append)
    assert {event.stage for event in told} == {"load"}
    assert {event.unit for event in told} == {"bytes" if backend == "mlx" else "parts"}
    steps = [event.step for event in told]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] == told[-1].total > 2
    assert len(told) < 400


@pytest.mark.parametrize("asks", [0, 1, 3])
def test_a_load_that_is_cancelled_raises(backend: str, asks: int) -> None:
    with pytest.raises(Cancelled) as caught:
        load(backend, cancel=after(asks))
    assert caught.value.code == "cancelled"


def test_a_set_event_is_a_signal_too(backend: str) -> None:
    event = threading.Event()
    event.set()
    with pytest.raises(Cancelled, match="nothing was done"):
        load(backend, cancel=event)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("asks", [0, 2])
def test_a_cancelled_part_is_not_there(own: ipa.Pipeline, verb: str, asks: int) -> None:
    kind, given = VERBS[verb]
    before = own("a star", **SMALL)
    with pytest.raises(Cancelled):
        getattr(own, verb)(**given, cancel=after(asks))
    assert not own.info()[kind]
    assert np.array_equal(own("a star", **SMALL).latents, before.latents)
    told: list[Progress] = []
    getattr(own, verb)(**given, on_progress=told.append)
    assert list(own.info()[kind]) == ["new"] and told[-1].step == told[-1].total


def test_what_a_listener_raises_comes_out(backend: str) -> None:
    def broken(event: Progress) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        load(backend, on_progress=broken)


def test_encoding_tells_pictures_and_stops(own: ipa.Pipeline) -> None:
    own.load_ip_adapter("demo:base", name="base")
    pictures = [ipa.open_image(path) for path in demo.references()[:2]]
    told: list[Progress] = []
    embeds = own.encode_image_prompt(pictures, on_progress=told.append)
    counts = [(event.step, event.total) for event in told if event.stage == "encode"]
    assert counts[0][0] == 0 and counts[-1][0] == counts[-1][1] >= 2
    with pytest.raises(Cancelled):
        own.encode_image_prompt(pictures, cancel=after(1))
    with pytest.raises(Cancelled):
        own.embed_images(pictures, cancel=after(1))
    assert np.array_equal(own.encode_image_prompt(pictures).conditional, embeds.conditional)


def test_a_download_is_told_once_and_stops() -> None:
    """As huggingface_hub drives two bars of the same bytes, in threads of its own."""
    told: list[tuple[str, int, int, str]] = []
    stop = threading.Event()
    bar = download_bar(Watch(lambda *event: told.append(event), stop.is_set))
    network, disk = (bar(total=100, initial=0, unit="B", name="x") for _ in range(2))
    files = bar(total=3, desc="Fetching 3 files")
    network.update(40)
    disk.update(30)
    files.update(1)
    disk.update(30)
    assert told == [("download", 40, 100, "bytes"), ("download", 60, 100, "bytes")]
    stop.set()
    with pytest.raises(Cancelled, match="60 of 100 bytes"):
        disk.update(1)


def test_a_closed_pipeline_says_so(backend: str) -> None:
    with load(backend) as pipe:
        begun, kept = pipe.stream("a star", **SMALL), pipe.stream("a star", **SMALL)
        next(begun)  # left in its middle
    assert pipe.closed and "closed" in repr(pipe)
    pipe.close()
    for question in (
        lambda: pipe("a star", **SMALL),
        pipe.info,
        pipe.release,
        lambda: next(kept),
        lambda: pipe.load_ip_adapter("demo:base"),
        lambda: setattr(pipe, "memory_budget", 3.0),
    ):
        with pytest.raises(PipelineClosed, match="was closed"):
            question()


def test_closing_gives_the_memory_back() -> None:
    import mlx.core as mx

    def used() -> int:
        pipe = ipa.load("demo", backend="mlx")
        pipe.load_ip_adapter("demo:plus", name="plus")
        picture = ipa.open_image(demo.references()[0])
        pipe("a star", ip_adapter_image=picture, **SMALL)
        most = int(mx.get_active_memory())
        pipe.close()
        return most

    used()
    before = mx.get_active_memory()
    most = used()
    assert most - before > 25_000_000
    assert mx.get_active_memory() <= before + 1024
    assert mx.get_cache_memory() == 0


def test_an_error_in_a_block_is_not_hidden(backend: str) -> None:
    with pytest.raises(ZeroDivisionError), load(backend) as pipe:
        events = pipe.stream("a star", **SMALL)
        next(events)
        1 / 0  # noqa: B018
    assert pipe.closed


def held(pipe: ipa.Pipeline) -> tuple[threading.Thread, threading.Event]:
    """A thread that keeps the pipeline in the middle of a stream until the event is set."""
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        events = pipe.stream("a star", **SMALL)
        next(events)
        begun.set()
        go.wait()
        events.close()

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    return thread, go


def test_a_busy_pipeline_answers(own: ipa.Pipeline) -> None:
    assert not own.busy
    thread, go = held(own)
    try:
        assert own.busy
        with pytest.raises(PipelineBusy) as caught:
            own("a star", **SMALL, wait=0)
        assert caught.value.code == "pipeline-busy"
        with pytest.raises(Cancelled, match="waited for its turn"):
            own("a star", **SMALL, cancel=after(3))
        own.wait = 0.05
        for busy in (own.release, own.close, lambda: own.load_ip_adapter("demo:base")):
            with pytest.raises(PipelineBusy):
                busy()
        assert own.info()["model"] == "demo"
    finally:
        go.set()
        thread.join()
    assert not own.closed and own("a star", **SMALL, wait=None).images


@pytest.mark.parametrize("wait", [-1, "soon", float("nan"), True])
def test_no_wait(own: ipa.Pipeline, wait: Any) -> None:
    with pytest.raises(RequestError) as caught:
        own.stream("a star", **SMALL, wait=wait)
    assert caught.value.argument == "wait"
    with pytest.raises(RequestError):
        own.wait = wait


def test_asyncio_has_the_same_events_and_picture(pipe: ipa.Pipeline) -> None:
    async def followed() -> list[Progress]:
        return [event async for event in pipe.astream("a star", **SMALL)]

    plain, events = list(pipe.stream("a star", **SMALL)), asyncio.run(followed())
    told = [(event.stage, event.step, event.total) for event in events]
    assert told == [(event.stage, event.step, event.total) for event in plain]
    assert events[-1].result and plain[-1].result
    assert np.array_equal(events[-1].result.latents, plain[-1].result.latents)
    result = asyncio.run(pipe.agenerate("a star", **SMALL))
    assert np.array_equal(result.latents, plain[-1].result.latents)


def test_what_is_loaded_and_closed_is_logged(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", "ipa"), load(backend) as pipe:
        pipe.load_ip_adapter("demo:base", name="base")
        pipe.load_controlnet(demo.controlnet(), name="edges")
        pipe("a star", **SMALL)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    for level, words in (
        ("INFO", "loaded demo: "),
        ("INFO", "loaded the adapter base from "),
        ("INFO", "loaded the control edges from "),
        ("DEBUG", "a run of 2 steps"),
        ("INFO", "closed demo"),
    ):
        assert any(one == level and text.startswith(words) for one, text in told), words


def test_the_library_sets_no_handler() -> None:
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "ipa"]
    assert names and not any(logging.getLogger(name).handlers for name in names)


WITHOUT_THE_COMMAND = """
import sys
for name in ("typer", "rich", "huggingface_hub", "tqdm", "torch"):
    sys.modules[name] = None  # as if it were not installed
import ipa
with ipa.load("demo", backend="mlx", on_progress=print) as pipe:
    pipe.load_ip_adapter(ipa.demo.adapter("base"), name="base")
    picture = ipa.open_image(ipa.demo.references()[0])
    assert pipe("a star", ip_adapter_image=picture, num_inference_steps=1).images
"""


def test_local_files_need_neither_the_command_nor_the_hub() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_THE_COMMAND], check=True, capture_output=True)


MANY = SMALL | {"num_inference_steps": 900}


def test_leaving_a_loop_ends_the_run(pipe: ipa.Pipeline) -> None:
    async def left() -> None:
        async with aclosing(pipe.astream("a star", **MANY)) as events:
            async for event in events:
                if event.stage == "denoise":
                    break

    asyncio.run(left())
    assert not pipe.busy


def test_a_cancelled_task_ends_the_run(pipe: ipa.Pipeline) -> None:
    async def cancelled() -> None:
        task = asyncio.ensure_future(pipe.agenerate("a star", **MANY))
        while not pipe.busy:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert not pipe.busy and pipe("a star", **SMALL, wait=0).images


def test_errors_come_out_where_they_are_awaited(pipe: ipa.Pipeline) -> None:
    with pytest.raises(RequestError):
        pipe.astream("a star", strenght=1)  # at once
    with pytest.raises(RequestError, match="num_inference_steps"):
        asyncio.run(pipe.agenerate("a star", num_inference_steps=0))
    with pytest.raises(Cancelled):
        asyncio.run(pipe.agenerate("a star", **SMALL, cancel=lambda: True))
