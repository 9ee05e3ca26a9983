"""OpenCLIP's own network, random and tiny: what writes and reads its files.

The package is installed without what it depends on, so that only the modules of the network can be
imported: under another name, and with a stand-in for the one class of
torchvision that they name and that a transformer never uses.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from oracle import models

_PACKAGE = "oracle_open_clip"


def _folder() -> Path:
    found = importlib.util.find_spec("open_clip")
    assert found is not None and found.submodule_search_locations is not None
    return Path(next(iter(found.submodule_search_locations)))


@cache
def network() -> Any:
    """The module `open_clip.model`."""
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(_folder())]
    sys.modules[_PACKAGE] = package
    stand_ins = _stand_ins() if importlib.util.find_spec("torchvision") is None else {}
    sys.modules.update(stand_ins)
    try:
        importlib.import_module(f"{_PACKAGE}.utils")
    finally:  # before anybody else takes it for the real one
        for name in stand_ins:
            del sys.modules[name]
    return importlib.import_module(f"{_PACKAGE}.model")


def _stand_ins() -> dict[str, ModuleType]:
    names = "torchvision", "torchvision.ops", "torchvision.ops.misc"
    modules = {name: ModuleType(name) for name in names}
    vars(modules[names[-1]])["FrozenBatchNorm2d"] = torch.nn.Identity
    return modules


def build(
    *, text: dict[str, Any], vision: dict[str, Any], projection: int, custom: bool = False
) -> torch.nn.Module:
    """A whole CLIP of the sizes that these configs of transformers say; every tensor differs.

    Args:
        text: Of the text tower.
        vision: Of the image tower; the activation is that of the text tower.
        projection: Width of both projections.
        custom: `CustomTextCLIP`, which keeps the text tower as a part of its own.
    """
    module = network()
    made = (module.CustomTextCLIP if custom else module.CLIP)(
        projection,
        {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
        },
        {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
        },
        quick_gelu=text["hidden_act"] == "quick_gelu",
    )
    return models.randomize(made, 7)


def public(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A public model without memory, and its config in OpenCLIP's words."""
    config = json.loads((_folder() / "model_configs" / f"{name}.json").read_text())
    with torch.device("meta"):
        return network().CLIP(**config), config
