"""The supervisor: jobs are answered once each, whatever becomes of the worker."""

from __future__ import annotations

import base64
import logging
import sys
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ipa.checks import check_callback
from ipa.errors import Cancelled, EngineBusy, EngineClosed, OutOfMemory, RequestError, WorkerLost
from ipa.pipeline.documents.pictures import PictureShelf

from .answers import error_of
from .crashes import Crashes
from .process import Process, worker_command
from .task import OnNotice, Task

_LOG = logging.getLogger("ipa.supervisor")
_IN_FLIGHT = 4  # jobs that a worker has at once: enough for it to choose by its models
_LOOK_S = 0.1
_INITIALIZE = "!initialize"


class Supervisor:
    """A supervisor of one worker process, for programs that must outlive a crash of the GPU.

    A job is sent to a worker; if that dies, jobs it had are sent to the next one, and since a seed
    gives the same picture, nobody can tell. What was running then, or ran out of memory, is tried
    once more in less memory, as far as that leaves the picture as it is, and the answer's
    `info["warnings"]` say so. A job that fails a second time is given up.

    Args:
        command: What to run as a worker; by default this Python's `ipa.engine.stdio`.
        scratch: Where results are written as files; None has them sent.
        queue: The jobs that may wait; one more is `EngineBusy`.
        no_progress_s: Seconds without a word of a running job after which its worker is killed, or
            ten times its slowest step, whichever is more.

    Methods may be called from any thread; `on_notice` runs in a thread of the supervisor.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        scratch: str | Path | None = None,
        queue: int = 256,
        no_progress_s: float = 120.0,
    ) -> None:
        self._command = list(command or worker_command(sys.executable))
        self._params = {} if scratch is None else {"scratch": str(Path(scratch).absolute())}
        self._deliver = "data" if scratch is None else "path"
        self._queue, self._patience = queue, no_progress_s
        self._lock = threading.RLock()
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._sent: list[Task] = []
        self._pictures, self._there = PictureShelf(), set[str]()
        self._process: Process | None = None
        self._is_ready = False
        self._is_closing, self._is_over = threading.Event(), threading.Event()
        self._begun = 0.0
        self._crashes = Crashes()
        self._reasons: dict[int, str] = {}
        self._watch = threading.Thread(target=self._look, name="ipa-supervisor", daemon=True)
        self._start()
        self._watch.start()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)

    @property
    def pid(self) -> int | None:
        """The number of the worker that runs now; None between two."""
        process = self._process
        return None if process is None else process.pid

    def put(self, picture: bytes | str | Path) -> str:
        """Keep a picture's file for jobs to name by its hash; returns {"sha256": …}'s value."""
        file = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        return self._pictures.put(file)[0]

    def submit(
        self,
        job: Mapping[str, Any],
        *,
        job_id: str | None = None,
        on_notice: OnNotice | None = None,
    ) -> Task:
        """Ask for pictures.

        Args:
            job: The params of `generate`: what is needed, and "request"; see
                `ipa.engine.document`. Its pictures as {"sha256": …} of `put`, or as paths.
            job_id: Its name; by default one is made.
            on_notice: Told of progress and previews: ("job/progress", {…}).

        Raises:
            EngineBusy: Too many wait.
            EngineClosed: The supervisor is closed.
            RequestError: There is a job of that name.
            WorkerLost: Workers cannot be kept alive.
        """
        check_callback("on_notice", on_notice)
        task = Task(job_id or uuid.uuid4().hex, {"deliver": self._deliver, **job}, on_notice)
        with self._lock:
            if self._is_closing.is_set():
                raise EngineClosed("the supervisor is closed", remedy="make a new one")
            if self._crashes.has_given_up:
                raise self._given_up()
            if task.id in self._tasks:
                raise RequestError(f"there is a job {task.id!r} already", remedy="name it apart")
            if len(self._tasks) >= self._queue:
                raise EngineBusy("the queue is full", found=f"{len(self._tasks)} jobs")
            self._tasks[task.id] = task
            self._send_more()
        return task

    def cancel(self, task: Task) -> None:
        """Ask a job to stop; if its worker does not listen, that is ended."""
        with self._lock:
            if task.done():
                return
            task.is_cancelled, task.last_news = True, time.monotonic()
            if task in self._sent and self._process is not None:
                params = {"id": task.id}
                self._process.send(
                    {"id": f"!cancel {task.id}", "method": "cancel", "params": params}
                )
                return
        self._finish(task, error=Cancelled("the job was cancelled", found="it had not begun"))

    def close(self, *, cancel: bool = False) -> None:
        """Take no more jobs, wait for those that were taken (or cancel them), end the worker."""
        self._is_closing.set()
        with self._lock:
            open_tasks = list(self._tasks.values())
        for task in open_tasks:
            if cancel:
                self.cancel(task)
            task.future.exception()
        self._is_over.set()
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.leave(5.0)

    # The worker's life

    def _start(self) -> None:
        with self._lock:
            self._is_ready, self._begun = False, time.monotonic()
            self._there.clear()
            self._process = Process(self._command, self._hear, self._ended)
            self._process.send({"id": _INITIALIZE, "method": "initialize", "params": self._params})

    def _ended(self, process: Process) -> None:
        """Its process has ended: who was running is counted, the others go to the next."""
        with self._lock:
            if self._process is not process:  # it was asked to
                return
            self._process, self._is_ready = None, False
            ending = process.ending() | {
                "reason": self._reasons.pop(process.pid, "its worker ended")
            }
            _LOG.warning("worker %d ended: %s", process.pid, ending)
            lost, self._sent = self._sent, []
            for task in lost:
                if task.is_running:
                    task.failed(ending)
                task.rest()
            self._crashes.count()
            given_up = list(self._tasks.values()) if self._crashes.has_given_up else []
        for task in lost:
            self._settle(task)
        for task in given_up:
            self._finish(task, error=self._given_up(ending))
        if not given_up:
            threading.Thread(target=self._start_again, daemon=True).start()

    def _settle(self, task: Task) -> None:
        """Answer a job whose worker died, if it is not to be sent again."""
        if task.is_cancelled:
            self._finish(task, error=Cancelled("the job was cancelled", found="its worker ended"))
        elif len(task.failures) >= 2:
            last = task.failures[-1]
            how = last.get("signal") or f"exit code {last.get('exit_code')}"
            first = task.failures[0]["reason"]
            error = WorkerLost(
                f"the job {task.id} failed twice: first {first}, then its worker ended",
                found=f"{how}; {last['reason']}",
                remedy="ask for less: a smaller size, fewer pictures; see .ending for its words",
                ending=last,
            )
            self._finish(task, error=error)

    def _start_again(self) -> None:
        if not self._is_over.wait(self._crashes.pause_s()):
            self._start()

    def _given_up(self, ending: Mapping[str, Any] | None = None) -> WorkerLost:
        return WorkerLost(
            "workers cannot be kept alive",
            found=f"{self._crashes.most} ended within {self._crashes.within_s:g} s",
            remedy="see .ending for the last one's words; then make a new supervisor",
            ending=ending,
        )

    # What it says

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "method" in message:
            self._notice(message["method"], message.get("params", {}))
            return
        number = message.get("id")
        if number == _INITIALIZE:
            with self._lock:
                self._is_ready = "result" in message
                self._send_more()
            return
        task = self._tasks.get(str(number))
        if task is None:
            return  # of ours, or an answer that came twice
        if "error" not in message:
            self._crashes.forget()
            self._finish(task, result=task.told(message.get("result")))
            return
        error = error_of(message["error"])
        if not (isinstance(error, OutOfMemory) and self._is_tried_again(task, error)):
            self._finish(task, error=error)

    def _is_tried_again(self, task: Task, error: OutOfMemory) -> bool:
        """Send a job whose memory ran out once more, for less of it."""
        with self._lock:
            if task.is_cancelled or not task.failed(
                {"reason": "memory ran out", **error.to_json()}
            ):
                return False
            if task in self._sent:
                self._sent.remove(task)
            self._send_more()
        return True

    def _notice(self, method: str, params: Mapping[str, Any]) -> None:
        task = self._tasks.get(str(params.get("id")))
        if task is None:
            return
        with self._lock:
            task.news()
        if task.on_notice is not None:
            try:
                task.on_notice(method, params)
            except Exception:  # noqa: BLE001 - a caller's fault is not the job's
                _LOG.exception("on_notice of job %s raised; the job goes on", task.id)

    def _finish(
        self,
        task: Task,
        result: dict[str, Any] | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Answer a job, if it is not answered."""
        with self._lock:
            if self._tasks.pop(task.id, None) is None:
                return
            if task in self._sent:
                self._sent.remove(task)
            self._send_more()
        if error is not None:
            task.future.set_exception(error)
        else:
            task.future.set_result(result or {})

    def _send_more(self) -> None:
        """Send jobs that wait, the highest priority first; under the lock."""
        process = self._process
        if process is None or not self._is_ready:
            return
        waiting = [task for task in self._tasks.values() if task not in self._sent]
        waiting.sort(key=lambda task: (-task.params.get("priority", 0), not task.failures))
        for task in waiting[: max(0, _IN_FLIGHT - len(self._sent))]:
            for sha256 in _hashes(task.params):
                self._send_picture(process, sha256)
            self._sent.append(task)
            task.rest()
            process.send({"id": task.id, "method": "generate", "params": task.sent})

    def _send_picture(self, process: Process, sha256: str) -> None:
        if sha256 in self._there:
            return
        try:
            file = self._pictures.file(sha256)
        except RequestError:
            return  # the worker says that it has none
        self._there.add(sha256)
        data = base64.b64encode(file).decode("ascii")
        process.send({"id": f"!put {sha256}", "method": "put", "params": {"data": data}})

    # Whether it lives

    def _look(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            with self._lock:
                process, reason = self._process, self._too_quiet()
                if process is not None and reason is not None:
                    self._reasons[process.pid] = reason
                    process.kill()

    def _too_quiet(self) -> str | None:
        """Why the worker must be ended; None if it need not."""
        now = time.monotonic()
        if not self._is_ready and now - self._begun > self._patience:
            return f"it did not begin within {self._patience:g} s"
        for task in self._sent:
            quiet = now - task.last_news
            if task.is_cancelled and quiet > max(2.0, 3 * task.slowest_s):
                return f"it did not stop the cancelled job {task.id}"
            if task.is_running and quiet > max(self._patience, 10 * task.slowest_s):
                return f"no progress of job {task.id} for {quiet:.0f} s"
        return None


def _hashes(value: Any) -> Iterator[str]:
    """The hashes of pictures that some JSON names."""
    if isinstance(value, Mapping):
        if isinstance(value.get("sha256"), str):
            yield value["sha256"]
        for entry in value.values():
            yield from _hashes(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _hashes(entry)
