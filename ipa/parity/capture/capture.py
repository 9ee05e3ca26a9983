"""A run that was recorded: its stages, and what made them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .floors import Floors
from .sketch import Kept


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs of a comparison: what made it.

    `name` is short ("torch float32"), `environment` is of chip, system, versions, TF32, BLAS and
    threads, `seconds` what the run took, None where it was not measured.
    """

    name: str
    backend: str
    dtype: str
    environment: Mapping[str, str]
    seconds: float | None = None


FORMAT_VERSION = 1
"""The version of the file format; a reader refuses a larger one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What made a capture: model, request, machine; JSON-able.

    Attributes:
        model: What the user called it.
        backend: "mlx" or "torch".
        dtype: The precision that it computed in.
        device: As the backend calls it.
        request: `Result.info["request"]`.
        environment: See `ipa.parity.capture.environment`.
        fingerprints: Of the weights, by component; see `ipa.pipeline.fingerprints`.
        timings_s: Seconds by stage of the run.
        warnings: What the run warned of.
        embedding: What the image encoder of the run's first image prompt says of the finished
            picture; None where it has none.
        unfinished: Why the run ended before its picture; "" where it did not.
        format_version: Of the format that it has on disk.
    """

    model: str
    backend: str
    dtype: str
    device: str
    request: Mapping[str, Any]
    environment: Mapping[str, str]
    fingerprints: Mapping[str, Mapping[str, str]]
    timings_s: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    embedding: tuple[float, ...] | None = None
    unfinished: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def side(self) -> Side:
        """The header as a side of a comparison."""
        words = (self.backend, self.dtype, *(("quantised",) if self._is_quantised else ()))
        return Side(
            name=" ".join(words),
            backend=self.backend,
            dtype=self.dtype,
            environment=self.environment,
            seconds=sum(self.timings_s.values()) if self.timings_s else None,
        )

    @property
    def precision(self) -> str:
        """The precision, a key of `ROUNDING`; the weights' where they are quantised."""
        bits = re.findall(r"(\d) bits", self.environment.get("quantised", ""))
        return f"{min(bits)}-bit" if bits else self.dtype

    @property
    def _is_quantised(self) -> bool:
        return "quantised" in self.environment


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """A run's stages by name, in the order of computation, with its header.

    Each is an array, float32 or float16, or a `Sketch` of one. Those of a file are read one by one,
    when they are asked for. `floors` are, by the precision of a comparison, what rounding alone
    makes of them; `is_summed` says that the file's checksums were there to be checked.
    """

    header: Header
    stages: Mapping[str, Kept] = field(repr=False)
    floors: Mapping[str, Floors] = field(default_factory=dict, repr=False)
    is_summed: bool = True
