"""The error tree: every message says what was wrong, what was found, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

_SHOWN = 80
# A sentence that begins with an argument's name, "prompt 2:" before it if there are several.
_NAMED = re.compile(
    r"(?:prompt \d+: )?"
    r"(?!(?:a|an|the|it|there|this|what|who|one|nothing|they)\b)"
    r"([A-Za-z_]\w*(?:\([^)]*\))?(?:\.\w+|\[[^\]]*\])*)"
    r" (?:must|cannot|has|is|needs|holds|takes) "
)


def shown(value: object) -> str:
    """A value as error messages show it: what Python prints, cut; its type if that fails."""
    try:
        return repr(value)[:_SHOWN]
    except Exception:  # noqa: BLE001 - repr may run anything; an int may be too long to print
        return f"a {type(value).__name__} that cannot be printed"


class IpaError(Exception):
    """Root of every error that this project raises on purpose.

    Args:
        what: What is wrong, naming the file or the argument.
        found: What was found instead of what was needed.
        remedy: What the reader can do about it.
        argument: The argument that it speaks of, to be put beside its field; by default that with
            which `what` begins: "guidance_scale must be …".

    Attributes:
        code: What kind of error it is, for programs: it stays when the words change.
    """

    code: ClassVar[str] = "error"

    def __init__(
        self, what: str, *, found: str = "", remedy: str = "", argument: str | None = None
    ) -> None:
        self.what, self.found, self.remedy = what, found, remedy
        self.argument = argument or _argument_of(what)
        parts = [what.rstrip(".")]
        if found:
            parts.append(f"found: {found.rstrip('.')}")
        if remedy:
            parts.append(f"remedy: {remedy.rstrip('.')}")
        super().__init__("; ".join(parts) + ".")

    def to_json(self) -> dict[str, str | None]:
        """The error as values: code, what, found, remedy, argument."""
        return {
            "code": self.code,
            "what": self.what,
            "found": self.found,
            "remedy": self.remedy,
            "argument": self.argument,
        }


def _argument_of(what: str) -> str | None:
    found = _NAMED.match(what)
    return None if found is None else re.sub(r"\([^)]*\)", "", found[1])


class RequestError(IpaError):
    """An argument of a call cannot be honoured."""

    code = "request"


class PictureMissingError(RequestError):
    """A picture that a request was made with is not at hand."""

    code = "picture-missing"


class CheckpointError(IpaError):
    """A file or folder of weights is missing, damaged, or not what is needed."""

    code = "checkpoint"


class BackendError(IpaError):
    """A backend is not installed, or cannot run here."""

    code = "backend"


class NumericalError(IpaError):
    """A computation gave NaN, infinity, or a constant picture.

    `info` is what `Result.info` would have said of the run, None where there was no run yet.
    """

    code = "numerical"

    info: Mapping[str, Any] | None = None


class OutOfMemory(IpaError):  # noqa: N818 - a MemoryError is Python's
    """Memory ran out while something was loaded or computed; the pipeline can go on."""

    code = "memory"


class ParityError(IpaError):
    """Two runs cannot be compared."""

    code = "parity"


class CaptureError(ParityError):
    """A capture of the parity lab is missing, damaged, or not what is needed."""

    code = "capture"


class IncompatibleCaptures(CaptureError):  # noqa: N818 - what is wrong is between two good ones
    """Two captures are not of the same run.

    Args:
        differences: Everything in which they differ, as (name, in a, in b).
    """

    code = "captures-differ"

    def __init__(self, differences: Sequence[tuple[str, str, str]]) -> None:
        self.differences = tuple(differences)
        listed = "; ".join(f"{name}: {a} and {b}" for name, a, b in self.differences)
        names = ",".join(dict.fromkeys(name for name, _, _ in self.differences))
        super().__init__(
            "the captures are not of the same run",
            found=listed,
            remedy=f"capture again, or allow by name what is meant to differ, such as {names}",
        )


class Cancelled(IpaError):  # noqa: N818 - nobody made an error
    """The caller asked to stop; the pipeline is ready for the next call."""

    code = "cancelled"


class PipelineBusy(IpaError):  # noqa: N818 - nobody made an error
    """Another thread has the pipeline, and did not give it back in the time that was given."""

    code = "pipeline-busy"


class PipelineClosed(IpaError):  # noqa: N818 - likewise
    """The pipeline was closed: its model is gone."""

    code = "pipeline-closed"


class EngineError(IpaError):
    """An engine cannot take a job, or finish it."""

    code = "engine"


class EngineBusy(EngineError):  # noqa: N818 - nobody made an error
    """The queue is full: ask again later."""

    code = "busy"


class EngineClosed(EngineError):  # noqa: N818 - likewise
    """The engine was closed."""

    code = "closed"


class DeadlineExceeded(EngineError):  # noqa: N818 - likewise
    """A job was not done by its deadline."""

    code = "deadline"


class WorkerLost(EngineError):  # noqa: N818 - likewise
    """A worker's process ended, again and again, on a job or before any.

    `ending` says how: exit code or signal, and its last lines of standard error.
    """

    code = "worker-lost"

    def __init__(
        self,
        what: str,
        *,
        found: str = "",
        remedy: str = "",
        ending: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what, found=found, remedy=remedy)
        self.ending = dict(ending or {})
