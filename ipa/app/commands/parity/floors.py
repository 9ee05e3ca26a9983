"""`ipa-mlx parity capture --floor`: who measures what rounding makes of a capture's stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ipa.backend.tap import Tap
from ipa.errors import RequestError
from ipa.parity.recording import Exact
from ipa.pipeline.pipeline import Pipeline
from ipa.watching import CancelSignal

AUTO = "auto"
_NONE = "none"
_PRECISIONS = ("float32", "float16", "bfloat16")

Open = Callable[[str, str, str | None], Pipeline]
"""A function that opens a backend with everything loaded, by name, precision and device."""


def floor_precisions(text: str) -> tuple[str, ...] | None:
    """The precisions that were named; None where the choice is ours."""
    if text in {AUTO, _NONE}:
        return None if text == AUTO else ()
    found = tuple(dict.fromkeys(text.split(",")))
    unknown = [name for name in found if name not in _PRECISIONS]
    if unknown:
        raise RequestError(
            "--floor names precisions of comparisons",
            found=repr(unknown[0])[:80],
            remedy=f"{AUTO}, {_NONE}, or some of {', '.join(_PRECISIONS)}",
        )
    return found


def exact_runs(
    precisions: tuple[str, ...] | None,
    info: Mapping[str, Any],
    opened: Open,
    arguments: Mapping[str, Any],
    cancel: CancelSignal | None,
) -> dict[str, Exact]:
    """The runs that measure floors, by precision; each backend is opened when it is needed.

    For float32 that is torch in float64, for a lower one the capture's own backend in it.

    Raises:
        RequestError: Floors of float32 are asked for at another backend's stages: its faults would
            be in them, and allowed.
    """
    if "float32" in (precisions or ()) and info["backend"] != "torch":
        raise RequestError(
            "floors of float32 are measured on torch",
            found=f"--floor float32 for a capture of {info['backend']}",
            remedy="capture with --backend torch; in a live comparison they are measured anyway",
        )
    if precisions is None:
        is_reference = (info["backend"], info["dtype"]) == ("torch", "float32")
        precisions = ("float32",) if is_reference and "quantization" not in info else ()
    device = info["device"] if str(info["device"]).startswith("cuda") else None

    def exact(precision: str) -> Exact:
        backend, dtype = (
            ("torch", "float64")
            if precision == "float32"
            else (
                info["backend"],
                precision,
            )
        )

        def run() -> Callable[[Tap], object]:
            on = (device or "cpu") if backend == "torch" else None
            pipe = opened(backend, dtype, on)
            return lambda tap: pipe(**arguments, tap=tap, cancel=cancel)

        return run

    return {precision: exact(precision) for precision in precisions}
