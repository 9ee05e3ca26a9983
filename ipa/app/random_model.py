"""A model of some structure with random weights, on which speed can be measured."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ipa.contract.files import read_json
from ipa.contract.specs import ClipTextSpec, VaeSpec
from ipa.contract.unet_spec import UNetSpec

if TYPE_CHECKING:
    from ipa_convert.tables.layout import Tensor

_WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
_BLOCK, _SCALE = 1 << 22, 0.02


def write_random_model(configs: Path, vocabulary: Path, target: Path) -> Path:
    """A folder in diffusers' layout, in float16.

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
