"""How fast a model of SD1.5's size is: random weights, guidance."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from ipa import bases
from ipa.app.diagnosis import Speed
from ipa.app.random_model import write_random_model
from ipa.contract.errors import RequestError
from ipa.contract.result import Progress
from ipa.loading import load
from ipa.run import CancelSignal

STEPS = 2
DISK, MEMORY = 3 * 2**30, 7 * 2**30
"""Bytes: 2.1 GB of files in float16; twice that in float32, and what a step takes."""

_GUIDANCE, _SIDE, _SIDE_ON_CPU = 7.5, 512, 256


@dataclass(frozen=True, slots=True)
class _Clock:
    """When steps end."""

    ends: list[float] = field(default_factory=list)

    def __call__(self, event: Progress) -> None:
        if event.stage == "denoise":
            self.ends.append(time.perf_counter())


def check_room() -> None:
    """Raise RequestError where memory or disk are too small."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < DISK:
        raise RequestError(
            "a model of SD1.5's size does not fit on the disk of temporary files",
            found=f"{free / 2**30:.1f} GiB free",
            remedy=f"free {DISK / 2**30:.0f} GiB, or set TMPDIR to another disk",
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory < MEMORY:
        raise RequestError(
            "a model of SD1.5's size does not fit in memory",
            found=f"{memory / 2**30:.1f} GiB",
            remedy="leave --full out",
        )


def full_speed(backend: str, device: str | None, cancel: CancelSignal | None = None) -> Speed:
    """Seconds per step, in the precision that suits the device; the first step is left out.

    Of pictures of 512 × 512, on a CPU 256 × 256.

    Raises:
        RequestError: Memory or disk are too small.
        Cancelled: `cancel` was set.
    """
    check_room()
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="ipa-mlx-doctor-") as folder:
        target = Path(folder, "model")
        write_random_model(bases.folder("sd15"), bases.vocabulary(), target)
        pipe = load(target, backend=backend, device=device)
        info = pipe.info()
        side = _SIDE_ON_CPU if "cpu" in str(info["device"]) else _SIDE
        pipe(
            "a star",
            num_inference_steps=STEPS,
            guidance_scale=_GUIDANCE,
            seed=0,
            width=side,
            height=side,
            output_type="latent",
            on_progress=clock,
            cancel=cancel,
        )
    seconds = (clock.ends[-1] - clock.ends[0]) / (len(clock.ends) - 1)
    return Speed(f"SD1.5's size, {side}²", str(info["dtype"]), seconds)
