"""How fast a model of true size runs here: random weights, a few steps."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ipa import bases
from ipa.app.options.loading import ModelOptions
from ipa.errors import RequestError
from ipa.model.clip import ClipTextSpec
from ipa.model.files import read_json
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec
from ipa.pipeline.run import CancelSignal
from ipa.request.result import Progress

from .diagnosis import Speed

if TYPE_CHECKING:
    from ipa_convert.tables.layout import Tensor


_WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


_BLOCK, _SCALE = 1 << 22, 0.02


def write_random_model(configs: Path, vocabulary: Path, target: Path) -> Path:
    """Write a model folder of random weights in diffusers' layout, in float16.

    Args:
        configs: A folder with the configs of the model: UNet, VAE, one text encoder.
        vocabulary: A folder with vocab.json and merges.txt.
        target: A folder to be made.
    """
    configs_alone = shutil.ignore_patterns("*.safetensors", "*.bin")
    shutil.copytree(configs, target, ignore=configs_alone)
    (target / "tokenizer").mkdir(exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(vocabulary / name, target / "tokenizer" / name)
    # One block of numbers over and over: speed does not depend on what they are.
    draw = np.random.default_rng(0)
    block = (_SCALE * draw.standard_normal(_BLOCK, np.float32)).astype("<f2").tobytes()
    for component, file in _WEIGHTS.items():
        config = read_json(target / component / "config.json")
        _write(target / component / file, _tensors(component, config), block)
    return target


def _tensors(component: str, config: Mapping[str, Any]) -> Iterator[Tensor]:
    from ipa_convert.tables import clip_text, unet, vae

    if component == "unet":
        return unet.tensors(UNetSpec.from_config(config, component))
    if component == "vae":
        return vae.tensors(VaeSpec.from_config(config, component))
    return clip_text.tensors(ClipTextSpec.from_config(config, component))


def _write(path: Path, tensors: Iterator[Tensor], block: bytes) -> None:
    header: dict[str, Any] = {}
    total = 0
    for tensor in tensors:
        end = total + 2 * math.prod(tensor.shape)
        header[tensor.name] = {
            "dtype": "F16",
            "shape": tensor.shape,
            "data_offsets": (total, end),
        }
        total = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, total, len(block)):
            file.write(block[: total - start])


STEPS = 2


DISK, MEMORY = 3 * 2**30, 7 * 2**30
"""Bytes that are needed: 2.1 GB of float16 files; twice that in memory, and a step's."""


_GUIDANCE, _SIDE, _SIDE_ON_CPU = 7.5, 512, 256


@dataclass(frozen=True, slots=True)
class _Clock:
    """A stopwatch that notes when steps end."""

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
        opening = ModelOptions(model=str(target), backend=backend, device=device)
        pipe = opening.open(opening.folder())
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
