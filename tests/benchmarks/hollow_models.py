"""Models of true sizes whose weights are zeros that take no disk: files with holes.

What a run takes in memory does not depend on their values. Names, shapes and configs are those of
public models, by the converters' tables.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import true_models
from ipa import bases
from ipa.model.adapter import AdapterSpec
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa.model.controlnet import ControlNetSpec
from ipa.model.files import STEMS, read_json
from ipa.model.sites import cross_attention_sites
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec
from ipa_convert.containers.header import Entry, encode_header
from ipa_convert.reading.components import TABLES
from ipa_convert.tables import ip_adapter
from ipa_convert.tables.layout import Tensor

ENCODER = true_models.VIT_H | {"model_type": "clip_vision_model"}
_ITEM, _TAG = 2, "F16"
_SPECS: dict[str, Any] = {
    "unet": UNetSpec,
    "vae": VaeSpec,
    "text_encoder": ClipTextSpec,
    "text_encoder_2": ClipTextSpec,
    "image_encoder": ClipVisionSpec,
}


def write_hollow(path: Path, tensors: Iterable[Tensor]) -> Path:
    """A safetensors file in float16 whose buffer is a hole."""
    entries, place = [], 0
    for tensor in tensors:
        size = _ITEM
        for side in tensor.shape:
            size *= side
        where = {"begin": place, "end": place + size}
        entries.append(Entry(name=tensor.name, dtype=_TAG, shape=tensor.shape, **where))
        place += size
    header = encode_header(entries, {})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + place)
    return path


def build(folder: Path, base: str) -> Path:
    """A model ("sd15", "sdxl") with ViT-H; base and plus adapters and a ControlNet beside it."""
    shutil.copytree(bases.folder(base), folder)
    shutil.copytree(bases.vocabulary(), folder / "tokenizer", dirs_exist_ok=True)
    if (folder / "text_encoder_2").is_dir():
        shutil.copytree(folder / "tokenizer", folder / "tokenizer_2", dirs_exist_ok=True)
    (folder / "image_encoder").mkdir()
    (folder / "image_encoder" / "config.json").write_text(json.dumps(ENCODER))
    for component, spec in _SPECS.items():
        place = folder / component
        if place.is_dir():
            parsed = spec.from_config(read_json(place / "config.json"))
            table = TABLES[component](parsed)  # type: ignore[index]
            write_hollow(place / f"{STEMS[component]}.safetensors", table.tensors)
    unet = UNetSpec.from_config(read_json(folder / "unet" / "config.json"))
    for name, adapter in _adapters(unet).items():
        tensors = ip_adapter.tensors(adapter, cross_attention_sites(unet))
        write_hollow(folder / f"{name}.safetensors", tensors)
    _build_controlnet(folder / "controlnet", read_json(folder / "unet" / "config.json"))
    return folder


def _adapters(unet: UNetSpec) -> dict[str, AdapterSpec]:
    width = unet.context_width
    plus = {
        "width": 768 if width == 768 else 1280,
        "layers": 4,
        "heads": 12 if width == 768 else 20,
    }
    return {
        "base": AdapterSpec(
            projector="linear",
            feature="embedding",
            feature_width=1024,
            tokens=4,
            context_width=width,
        ),
        "plus": AdapterSpec(
            projector="resampler",
            feature="states",
            feature_width=1280,
            tokens=16,
            context_width=width,
            **plus,
        ),
    }


def _build_controlnet(folder: Path, unet: dict[str, Any]) -> None:
    unwanted = {"up_block_types", "out_channels", "sample_size", "center_input_sample"}
    config = {k: v for k, v in unet.items() if k not in unwanted and not k.startswith("_")}
    config |= {
        "_class_name": "ControlNetModel",
        "conditioning_embedding_out_channels": [16, 32, 96, 256],
        "controlnet_conditioning_channel_order": "rgb",
    }
    known = ControlNetSpec.keys
    config = {k: v for k, v in config.items() if k in {*known.read, *known.fixed, "_class_name"}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    table = TABLES["controlnet"](ControlNetSpec.from_config(config))
    write_hollow(folder / f"{STEMS['controlnet']}.safetensors", table.tensors)
