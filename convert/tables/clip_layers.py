"""The layers that CLIP's two towers share (transformers' CLIPEncoder)."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.contract.specs import ClipTextSpec, ClipVisionSpec

from .layout import Tensor
from .modules import linear, norm
from .rules import Rename

# After `text_model.encoder.layers` and `vision_model.encoder.layers` have become `layers`.
RENAMES = (
    Rename("layers.#.layer_norm1.*", "layers.#.norm1.*"),
    Rename("layers.#.layer_norm2.*", "layers.#.norm2.*"),
    Rename("layers.#.self_attn.q_proj.*", "layers.#.attention.to_q.*"),
    Rename("layers.#.self_attn.k_proj.*", "layers.#.attention.to_k.*"),
    Rename("layers.#.self_attn.v_proj.*", "layers.#.attention.to_v.*"),
    Rename("layers.#.self_attn.out_proj.*", "layers.#.attention.to_out.*"),
    Rename("layers.#.mlp.fc1.*", "layers.#.feed_forward.proj_in.*"),
    Rename("layers.#.mlp.fc2.*", "layers.#.feed_forward.proj_out.*"),
)


def layers(prefix: str, spec: ClipTextSpec | ClipVisionSpec) -> Iterator[Tensor]:
    """Every tensor of a tower's layers."""
    width = spec.width
    for number in range(spec.layers):
        path = f"{prefix}.encoder.layers.{number}"
        yield from norm(f"{path}.layer_norm1", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{path}.self_attn.{part}", width, width)
        yield from norm(f"{path}.layer_norm2", width)
        yield from linear(f"{path}.mlp.fc1", width, spec.intermediate)
        yield from linear(f"{path}.mlp.fc2", spec.intermediate, width)
