"""Runs in asyncio: events from a thread of the run's own, which stops when nobody listens."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from typing import Any, Protocol, TypeAlias, Unpack

from ipa.backend.tap import Tap
from ipa.request.image_prompt import ImagePrompt
from ipa.request.pictures import Picture
from ipa.request.result import Progress, Result
from ipa.request.scales import StepWeights
from ipa.watching import CancelSignal, cancel_question

from ..loaded import Loaded
from .turns import CallArguments, apart

_LOG = logging.getLogger("ipa.pipeline")
_Events: TypeAlias = Generator[Progress, None, None]


class Streaming(Protocol):
    """The protocol of a pipeline, as far as it is needed here."""

    @property
    def stream(self) -> Callable[..., _Events]:
        """See `Pipeline.stream`."""

    @property
    def _loaded(self) -> Loaded: ...


def astream(
    pipe: Streaming,
    prompt: str | Sequence[str] = "",
    *,
    image_prompts: ImagePrompt | Sequence[ImagePrompt] = (),
    ip_adapter_image: Picture | Sequence[Any] | None = None,
    controlnet_image: Picture | Sequence[Picture] | None = None,
    weights: StepWeights | None = None,
    cancel: CancelSignal | None = None,
    tap: Tap | None = None,
    **arguments: Unpack[CallArguments],
) -> AsyncGenerator[Progress, None]:
    """The same as `stream` for asyncio: the events of a run that goes on in a thread of its own.

    Names and `cancel` are checked at once, the rest before the first event. The run goes as fast as
    it can, whether events are taken or not. It stops before its next evaluation when nobody listens
    any more: when the task is cancelled, or the generator is closed (`contextlib.aclosing`, which
    waits until it has stopped; a bare `break` tells it, too, and does not wait).
    """
    apart(arguments, None)
    asked = cancel_question(cancel)
    given: dict[str, Any] = {
        "image_prompts": image_prompts,
        "ip_adapter_image": ip_adapter_image,
        "controlnet_image": controlnet_image,
        "weights": weights,
        "tap": tap,
        **arguments,
    }

    def begin(is_left: Callable[[], bool]) -> _Events:
        return pipe.stream(prompt, cancel=lambda: is_left() or asked(), **given)

    return _followed(begin, pipe._loaded)


async def agenerate(
    pipe: Streaming,
    prompt: str | Sequence[str] = "",
    *,
    image_prompts: ImagePrompt | Sequence[ImagePrompt] = (),
    ip_adapter_image: Picture | Sequence[Any] | None = None,
    controlnet_image: Picture | Sequence[Picture] | None = None,
    weights: StepWeights | None = None,
    cancel: CancelSignal | None = None,
    tap: Tap | None = None,
    **arguments: Unpack[CallArguments],
) -> Result:
    """The same as a call for asyncio; whoever stops waiting for it stops the run."""
    events = astream(
        pipe,
        prompt,
        image_prompts=image_prompts,
        ip_adapter_image=ip_adapter_image,
        controlnet_image=controlnet_image,
        weights=weights,
        cancel=cancel,
        tap=tap,
        **arguments,
    )
    result: Result | None = None
    async with aclosing(events):
        async for event in events:
            result = event.result
    if result is None:
        raise RuntimeError("a stream ended without its result")
    return result


async def _followed(
    begin: Callable[[Callable[[], bool]], _Events], loaded: Loaded
) -> AsyncGenerator[Progress, None]:
    """The events of a run in a thread of its own, which has ended when this has."""
    loop, news = asyncio.get_running_loop(), asyncio.Queue[Progress | BaseException | None]()
    left = threading.Event()

    def tell(one: Progress | BaseException | None) -> None:
        try:
            loop.call_soon_threadsafe(news.put_nowait, one)
        except RuntimeError:  # the loop is closed: nobody listens any more
            _LOG.debug("a run's loop is closed; the run stops")
            left.set()

    def work() -> None:
        ending: BaseException | None = None
        try:
            with closing(begin(left.is_set)) as events:
                for event in events:
                    tell(event)
        except BaseException as error:  # noqa: BLE001 - it is raised where the events are awaited
            ending = error
        finally:
            if not loaded.is_closed:
                loaded.backend.residency.end_thread()
        tell(ending)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="ipa-astream").start()
    ended = False
    try:
        while True:
            one = await news.get()
            ended = not isinstance(one, Progress)
            if isinstance(one, BaseException):
                raise one
            if one is None:
                return
            yield one
    finally:
        left.set()
        while not ended:
            ended = not isinstance(await news.get(), Progress)
