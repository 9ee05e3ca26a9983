"""Telling which of CLIP's public towers a file without config.json holds.

Sources: the configs of openai/clip-vit-large-patch14 (and -336), of the text encoders of Stable
Diffusion 1.5, 2.1 and XL, and of the image encoders of h94/IP-Adapter. Tensors do not show the
number of heads, nor the activation: both are those of the public tower of these sizes. (OpenCLIP
also trained towers of the same sizes with the other activation, ViT-L/14 of LAION among them:
those need their config.json.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isqrt
from typing import Any

from ipa.errors import CheckpointError
from ipa.model.config import Config

from ..containers.checkpoint import Checkpoint
from ..tables import clip_text, clip_vision
from ..tables.layout import Shape
from ..tables.rules import Rename, compile_pattern
from ..tables.spelling import Alias, Split, respell


def _tower(width: int, intermediate: int, layers: int, heads: int, activation: str) -> Config:
    return {
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
    }


def _text(*tower: Any) -> Config:
    """A text encoder's config, with bos, eos and pad ids as the public configs have them."""
    return {
        "architectures": ["CLIPTextModel"],
        **_tower(*tower),
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def _vision(*tower: Any, projection: int, image_size: int = 224) -> Config:
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        **_tower(*tower),
        "image_size": image_size,
        "patch_size": 14,
        "num_channels": 3,
        "projection_dim": projection,
    }


_LARGE = (1024, 4096, 24, 16, "quick_gelu")

TEXT_TOWERS: Mapping[str, Config] = {
    "OpenAI ViT-L/14 (SD1.5, SDXL's first)": _text(768, 3072, 12, 12, "quick_gelu"),
    "OpenCLIP ViT-H/14 (SD2)": _text(1024, 4096, 23, 16, "gelu"),
    "OpenCLIP ViT-bigG/14 (SDXL's second)": {
        **_text(1280, 5120, 32, 20, "gelu"),
        "architectures": ["CLIPTextModelWithProjection"],
        "projection_dim": 1280,
    },
}
VISION_TOWERS: Mapping[str, Config] = {
    "OpenAI ViT-L/14": _vision(*_LARGE, projection=768),
    "OpenAI ViT-L/14 for 336 pixels": _vision(*_LARGE, projection=768, image_size=336),
    "OpenCLIP ViT-H/14 (SD1.5 adapters, and SDXL's vit-h ones)": _vision(
        1280, 5120, 32, 16, "gelu", projection=1024
    ),
    "OpenCLIP ViT-bigG/14 (SDXL adapters, and SD1.5's vit-G)": _vision(
        1664, 8192, 48, 16, "gelu", projection=1280
    ),
}
"""Public towers by what people call them; the values are transformers' configs."""

_FULL_LAYERS = clip_text.TRUNCATED_LAYERS + 1


def detect_text(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config of a public text encoder, from tensors in any spelling of `clip_text`.

    ViT-H is what Stable Diffusion 2 takes of it: 23 layers, also where the file holds all 24.
    Tensors that are missing say nothing: the table names them afterwards.

    Raises:
        CheckpointError: There is no text tower, or none of the public ones.
    """
    sizes = text_sizes(checkpoint)
    if sizes.get("hidden_size") == 1024 and sizes.get("num_hidden_layers") == _FULL_LAYERS:
        sizes["num_hidden_layers"] = clip_text.TRUNCATED_LAYERS
    return _detect(checkpoint, clip_text.TITLE, sizes, TEXT_TOWERS)


def detect_vision(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config of a public image encoder, from tensors in any spelling of `clip_vision`.

    Raises:
        CheckpointError: There is no image tower, or none of the public ones.
    """
    return _detect(checkpoint, clip_vision.TITLE, vision_sizes(checkpoint), VISION_TOWERS)


def text_sizes(checkpoint: Checkpoint) -> dict[str, int]:
    """The sizes of a text encoder's config, from its tensors, by transformers' keys."""
    shapes = _shapes(checkpoint, clip_text.ALIASES, clip_text.RENAMES)
    embeddings = "text_model.embeddings"
    return _sizes(
        {
            "hidden_size": _axis(shapes, f"{embeddings}.token_embedding.weight", 1),
            "vocab_size": _axis(shapes, f"{embeddings}.token_embedding.weight", 0),
            "max_position_embeddings": _axis(shapes, f"{embeddings}.position_embedding.weight", 0),
            **_layer_sizes(shapes, "text_model"),
        }
    )


def vision_sizes(checkpoint: Checkpoint) -> dict[str, int]:
    """The sizes of an image encoder's config; `image_size` is 0 if positions fill no square."""
    shapes = _shapes(checkpoint, clip_vision.ALIASES, clip_vision.RENAMES)
    embeddings = "vision_model.embeddings"
    patches = f"{embeddings}.patch_embedding.weight"
    patch = _axis(shapes, patches, 2)
    positions = _axis(shapes, f"{embeddings}.position_embedding.weight", 0)
    return _sizes(
        {
            "hidden_size": _axis(shapes, f"{embeddings}.class_embedding", 0),
            "num_channels": _axis(shapes, patches, 3 if checkpoint.converted else 1),
            "patch_size": patch,
            "image_size": _image_size(positions, patch) if positions and patch else None,
            "projection_dim": _axis(shapes, "visual_projection.weight", 0),
            **_layer_sizes(shapes, "vision_model"),
        }
    )


def _image_size(positions: int, patch: int) -> int:
    side = isqrt(positions - 1)
    return side * patch if side * side == positions - 1 else 0


def _layer_sizes(shapes: Mapping[str, Shape], tower: str) -> dict[str, int | None]:
    layer = compile_pattern(f"{tower}.encoder.layers.#.**")
    numbers = {match[1] for match in map(layer.fullmatch, shapes) if match}
    return {
        "num_hidden_layers": len(numbers),
        "intermediate_size": _axis(shapes, f"{tower}.encoder.layers.0.mlp.fc1.weight", 0),
    }


def _shapes(
    checkpoint: Checkpoint, aliases: Iterable[Alias], renames: Sequence[Rename]
) -> dict[str, Shape]:
    """Shapes by canonical names; fused matrices stay as they are, for nothing is read of them."""
    rules = tuple(alias for alias in aliases if not isinstance(alias, Split))
    if checkpoint.converted:
        rules = tuple(Rename(rule.target, rule.source) for rule in reversed(renames))
    return {
        canonical: view.shape
        for name, stored in checkpoint.items()
        for canonical, view in respell(name, stored, rules)
    }


def _axis(shapes: Mapping[str, Shape], name: str, axis: int) -> int | None:
    shape = shapes.get(name)
    if shape is None:
        return None
    return shape[axis] if len(shape) > axis else 0


def _sizes(measured: Mapping[str, int | None]) -> dict[str, int]:
    return {key: size for key, size in measured.items() if size is not None}


def _detect(
    checkpoint: Checkpoint, title: str, sizes: Mapping[str, int], towers: Mapping[str, Config]
) -> dict[str, Any]:
    if "hidden_size" not in sizes:
        raise CheckpointError(
            f"{checkpoint.where} holds no {title}",
            found=f"tensors such as {', '.join(sorted(checkpoint)[:3])}",
            remedy="give another file",
        )
    for config in towers.values():
        if all(config[key] == size for key, size in sizes.items()):
            return dict(config)
    raise CheckpointError(
        f"{checkpoint.where}: this {title} is none that is known by its sizes",
        found=", ".join(f"{key} {size}" for key, size in sizes.items()),
        remedy="put the weights into a folder with the model's config.json, and give the folder",
    )
