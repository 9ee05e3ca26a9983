"""What `ipa-mlx parity compare` compares: captures, and backends that run while it does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa.app.options.loading import ModelOptions, check_arguments
from ipa.errors import BackendError, RequestError
from ipa.model.folder import ModelFolder
from ipa.parity.capture.capture import Capture
from ipa.parity.capture.choice import Choice
from ipa.parity.capture.floors import NO_MEASURE, Floors
from ipa.parity.compare.live import Subject, measured
from ipa.pipeline.loading import choose_backend
from ipa.pipeline.request_file import RequestFile, read_request

from .show import show_lost

_LIVE = re.compile(
    r"(?P<backend>mlx|torch)(:(?P<dtype>[a-z0-9]+))?(/(?P<bits>\d+))?(@(?P<device>[a-z0-9:]+))?"
)
DTYPES = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class LiveSpec:
    """A parsed BACKEND[:DTYPE][/BITS][@DEVICE]: "mlx", "torch:float16", "mlx:float16/4"."""

    backend: str
    dtype: str = "float32"
    device: str | None = None
    bits: int | None = None


def parse_subject(text: str) -> Path | LiveSpec:
    """A capture's path, or a backend.

    Raises:
        RequestError: It is neither.
    """
    if text.endswith(".safetensors") or Path(text).exists():
        return Path(text)
    found = _LIVE.fullmatch(text)
    if found is None:
        raise RequestError(
            f"{text} is neither a capture nor a backend",
            remedy="a .safetensors file, or BACKEND[:DTYPE][/BITS][@DEVICE] such as mlx:float16",
        )
    dtype = found["dtype"] or "float32"
    if dtype not in DTYPES:
        raise RequestError("unknown dtype", found=dtype, remedy=f"one of {', '.join(DTYPES)}")
    bits = int(found["bits"]) if found["bits"] else None
    return LiveSpec(choose_backend(found["backend"]), dtype, found["device"], bits)


@dataclass(frozen=True)
class Opening:
    """How to open backends for one request, with what the command line loads beside it."""

    asked: RequestFile
    folder: ModelFolder
    options: ModelOptions

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Opening:
        """From the command's own options. Raises RequestError without a request."""
        if options["request"] is None:
            raise RequestError(
                "a backend that runs needs a request",
                remedy="pass --request FILE: JSON of arguments, or a PNG of ipa-mlx generate",
            )
        asked = read_request(options["request"], options["picture"] or ())
        show_lost(asked)
        way = {"vae_memory": asked.run.get("vae_memory")}  # precisions are those of the subjects
        opening = ModelOptions.of(options).beside(asked.sources).as_made(way)
        folder = opening.folder()
        check_arguments(dict(asked.arguments), folder, opening.default_scale)
        return cls(asked, folder, opening)

    def subject(self, spec: LiveSpec) -> Subject:
        """A backend with everything loaded."""
        opening = self.options.on(spec.backend, spec.dtype, spec.device, spec.bits)
        pipe = opening.open(self.folder, self.asked.arguments["controls"])
        return Subject.of(pipe, self.asked.arguments, spec.bits)

    def exact(self, backend: str, dtype: str, low: str) -> Subject | None:
        """The subject whose runs measure floors for `compare_live`; None if no backend here can.

        Args:
            backend: The reference's.
            dtype: Its precision.
            low: The lower one of the two runs; quantised weights have no floor, since the reference
                has none.
        """
        if low == "float32":
            return self._if_there(LiveSpec("torch", "float64", "cpu"))
        return None if low == dtype or low not in DTYPES else self._if_there(LiveSpec(backend, low))

    def rounded(self, backend: str, low: str) -> Subject | None:
        """The subject whose floors `exact` measures, if not the reference itself.

        In float32 `exact` is torch. To a reference of another backend its distance would be that
        backend's faults, too: they would be their own floors, and allowed.
        """
        if low != "float32" or backend == "torch":
            return None
        return self._if_there(LiveSpec("torch", "float32", "cpu"))

    def floors(self, reference: Capture, low: str, *, forced: bool) -> Floors:
        """Measured floors of a reference's stages; empty where no backend here can measure."""
        header = reference.header
        exact = self.exact(header.backend, header.dtype, low)
        if exact is None or header.unfinished:
            return NO_MEASURE
        other = self.rounded(header.backend, low)
        return measured(other.capture(Choice()) if other else reference, exact, forced=forced)

    def _if_there(self, spec: LiveSpec) -> Subject | None:
        try:
            choose_backend(spec.backend)
        except BackendError:
            return None
        return self.subject(spec)
