"""The engine: one thread that owns the models, and a queue of jobs from any number of threads."""

from __future__ import annotations

import atexit
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, TypeVar, Unpack

from ipa.checks import check_callback, is_finite
from ipa.errors import RequestError, shown
from ipa.memory.budget import Budget, check_budget
from ipa.memory.plan import MemoryPlan
from ipa.pipeline.loading import end_thread
from ipa.pipeline.pipeline import Pipeline
from ipa.request.request import RequestArguments, check_names
from ipa.request.result import Result

from .activity import awake
from .frugal import in_less_memory
from .job import Job, OnEvent
from .needs import Needs
from .shelf import Shelf
from .waiting import Waiting

R = TypeVar("R")
_CALL = frozenset({"prompt", "image_prompts", "ip_adapter_image", "controlnet_image", "weights"})


class JobOptions(TypedDict, total=False):
    """The keywords of a job that are not of its request; see `Engine.submit`."""

    priority: int
    deadline_s: float | None
    on_event: OnEvent | None
    job_id: str | None
    frugal: bool


class Engine:
    """An engine: makes pictures for many callers, one after another, on one thread of its own.

    It loads what jobs need, keeps it, and forgets what was not used for long. Every method may be
    called from any thread; callbacks run in the engine's thread and hold no lock.

    Args:
        queue: The jobs that may wait; one more is `EngineBusy`.
        max_models: The models that may be loaded at once; the one unused for longest goes first.
        memory_budget: What the engine may take, as `Pipeline.memory_budget`: GiB, "auto", or None.
            With one, only the model at hand has weights in memory, as far as its stages need them;
            pictures stay the same, bit for bit.
        idle_unload_s: Seconds without a job after which every model is forgotten; None keeps them.

    Raises:
        RequestError: A number is out of its range.
    """

    def __init__(
        self,
        *,
        queue: int = 64,
        max_models: int = 2,
        memory_budget: Budget = None,
        idle_unload_s: float | None = None,
    ) -> None:
        _check_count("queue", queue)
        _check_count("max_models", max_models)
        _check_seconds("idle_unload_s", idle_unload_s)
        self._waiting = Waiting(queue)
        self._shelf = Shelf(max_models, check_budget(memory_budget))
        self._idle = idle_unload_s
        self._running: Job[Any] | None = None
        self._jobs_done = 0
        self._thread = threading.Thread(target=self._work, name="ipa-engine", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)

    def submit(
        self,
        needs: str | Path | Needs | Mapping[str, Any] = "demo",
        arguments: RequestArguments | Mapping[str, Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> Job[Result]:
        """Ask for pictures.

        Args:
            needs: The model, or an object with it and what is needed beside it: {"model": "demo",
                "adapters": ["base=demo:base"], "loras": [{"source": …, "scale": 0.5}]}; see
                `ipa.engine.needs.Needs`.
            arguments: Those of a call of `Pipeline`. Pictures must not change until it has ended.
            **options: `priority`: higher ones first, 0. `deadline_s`: seconds from now after which
                it fails. `on_event`: called with the job and each event. `job_id`: its name; by
                default one is made.

        Raises:
            EngineBusy: The queue is full.
            EngineClosed: The engine is closed.
            RequestError: A name or a number is wrong. What only the model can tell is told by
                the job's result.
        """
        wanted, asked = _asked(needs, arguments)
        is_frugal = options.get("frugal", False)

        def generate(pipeline: Pipeline, job: Job[Result]) -> Result:
            call = self._call(wanted, asked)
            if not is_frugal:
                return _made(pipeline, job, call)
            self._shelf.release_others(wanted)
            with in_less_memory(pipeline, call):
                return _made(pipeline, job, call)

        return self._put(wanted, generate, options, lazy=is_frugal)

    def plan(
        self,
        needs: str | Path | Needs | Mapping[str, Any] = "demo",
        arguments: RequestArguments | Mapping[str, Any] | None = None,
        **options: Unpack[JobOptions],
    ) -> Job[MemoryPlan]:
        """Foretell the memory of a job, which is not run; see `Pipeline.plan`.

        Of a model that is not loaded yet only headers are read; its weights are when a job first
        uses them. Arguments as those of `submit`.
        """
        wanted, asked = _asked(needs, arguments)

        def foretell(pipeline: Pipeline, job: Job[MemoryPlan]) -> MemoryPlan:
            call = self._call(wanted, asked)
            return pipeline.plan(**{k: v for k, v in call.items() if k != "weights"})

        return self._put(wanted, foretell, options, lazy=True)

    def call(
        self,
        needs: str | Path | Needs | Mapping[str, Any],
        function: Callable[[Pipeline], R],
        **options: Unpack[JobOptions],
    ) -> Job[R]:
        """Have a function called with the pipeline that some needs give, in the engine's thread.

        For what is not a picture: `engine.call("demo", lambda pipe: pipe.info())`.
        """
        check_callback("function", function)
        return self._put(Needs.of(needs), lambda pipeline, job: function(pipeline), options)

    def load(
        self, needs: str | Path | Needs | Mapping[str, Any], **options: Unpack[JobOptions]
    ) -> Job[dict[str, Any]]:
        """Load what some needs name, before it is asked for; the result is `Pipeline.info()`."""
        return self.call(needs, lambda pipeline: pipeline.info(), **options)

    def unload(self) -> Job[None]:
        """Forget every model as soon as the jobs before it are done; the result is None."""
        return self._put(None, lambda _, job: self._shelf.clear(), {})

    def state(self) -> dict[str, Any]:
        """What waits, what runs, what is loaded, and how many jobs have ended; JSON-able."""
        running = self._running
        return {
            "waiting": [job.id for job in self._waiting.listed()],
            "running": None if running is None else running.id,
            "loaded": self._shelf.describe(),
            "done": self._jobs_done,
        }

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> None:
        """Take no more jobs, finish those that were taken, and forget every model.

        Args:
            cancel: Cancel them instead.
            timeout: Seconds to wait at most; None waits for the end.

        Raises:
            TimeoutError: It has not ended by then.
            RequestError: It is called in the engine's own thread.
        """
        if threading.current_thread() is self._thread:
            raise RequestError(
                "an engine cannot wait for itself",
                found="close() in its own thread",
                remedy="call it outside on_event and call()",
            )
        self._waiting.close()
        if cancel:
            self._cancel_all()
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError("the engine has not ended yet")
        atexit.unregister(self._at_exit)

    def _call(self, needs: Needs, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call; LoRAs without a scale in it have that of the needs."""
        scales = self._shelf.lora_scales(needs) | dict(asked.get("loras") or {})
        return {**asked, **({"loras": scales} if scales else {})}

    def _put(
        self,
        needs: Needs | None,
        work: Callable[[Any, Job[R]], R],
        options: JobOptions,
        *,
        lazy: bool = False,
    ) -> Job[R]:
        deadline, on_event = options.get("deadline_s"), options.get("on_event")
        priority = options.get("priority", 0)
        _check_seconds("deadline_s", deadline)
        check_callback("on_event", on_event)
        if not isinstance(priority, int):
            raise RequestError("priority is a whole number", found=shown(priority))
        job = Job(
            options.get("job_id") or uuid.uuid4().hex,
            needs,
            work,
            priority=priority,
            deadline_s=deadline,
            on_event=on_event,
            lazy=lazy,
        )
        self._waiting.put(job)
        if deadline is not None:
            clock = threading.Timer(deadline, job.expire)
            clock.daemon = True
            clock.start()
            job.add_done_callback(lambda _: clock.cancel())
        return job

    def _work(self) -> None:
        """Run jobs until the engine is closed; the thread's life."""
        while not self._waiting.is_over:
            job = self._waiting.take(self._shelf.at_hand, self._idle if len(self._shelf) else None)
            if job is None:
                self._shelf.clear()
                continue
            self._running = job
            with awake("making a picture"):
                job.run(self._pipeline, self._count)
        self._shelf.clear()
        end_thread()

    def _count(self) -> None:
        self._running = None
        self._jobs_done += 1

    def _pipeline(self, job: Job[Any]) -> Pipeline | None:
        if job.needs is None:
            return None
        return self._shelf.ready(job.needs, job.tell, job.should_stop, lazy=job.lazy)

    def _at_exit(self) -> None:
        """Stop before the interpreter takes its modules apart under the thread."""
        self._waiting.close()
        self._cancel_all()
        self._thread.join()

    def _cancel_all(self) -> None:
        for job in (*self._waiting.listed(), *filter(None, [self._running])):
            job.cancel()


def _asked(
    needs: str | Path | Needs | Mapping[str, Any],
    arguments: RequestArguments | Mapping[str, Any] | None,
) -> tuple[Needs, dict[str, Any]]:
    """What a job needs, and its arguments, whose names are known."""
    asked = dict(arguments or {})
    check_names({name: value for name, value in asked.items() if name not in _CALL})
    return Needs.of(needs), asked


def _made(pipeline: Pipeline, job: Job[Result], call: Mapping[str, Any]) -> Result:
    """The result of a call; the job tells its events."""
    result: Result | None = None
    for event in pipeline.stream(cancel=job.should_stop, **call):
        result = event.result
        job.tell(event)
    if result is None:
        raise RuntimeError("a stream ended without its result")
    return result


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 16:
        raise RequestError(f"{name} is a whole number from 1 to 65536", found=shown(value))


def _check_seconds(name: str, value: object) -> None:
    if value is not None and (not is_finite(value) or not 0 < float(value) <= 1 << 31):
        raise RequestError(f"{name} is seconds above 0, or None", found=shown(value))
