"""Rows for modules that many networks share: linear layers, norms, attention of CLIP."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.model.clip import ClipTextSpec, ClipVisionSpec

from .layout import Layout, Tensor
from .rules import Rename


def linear(path: str, inputs: int, outputs: int, *, bias: bool = True) -> Iterator[Tensor]:
    """Tensors of `nn.Linear`: weight (out, in)."""
    yield Tensor(f"{path}.weight", (outputs, inputs))
    if bias:
        yield Tensor(f"{path}.bias", (outputs,))


def norm(path: str, width: int) -> Iterator[Tensor]:
    """Tensors of `nn.GroupNorm` or `nn.LayerNorm`."""
    yield Tensor(f"{path}.weight", (width,))
    yield Tensor(f"{path}.bias", (width,))


def convolution(
    path: str, inputs: int, outputs: int, kernel: int = 3, *, bias: bool = True
) -> Iterator[Tensor]:
    """Tensors of `nn.Conv2d`: weight (out, in, kernel, kernel)."""
    yield Tensor(f"{path}.weight", (outputs, inputs, kernel, kernel), Layout.CONVOLUTION)
    if bias:
        yield Tensor(f"{path}.bias", (outputs,))


def pointwise(path: str, inputs: int, outputs: int) -> Iterator[Tensor]:
    """Tensors of `nn.Conv2d` with a 1×1 kernel, which is a linear layer on channels."""
    yield Tensor(f"{path}.weight", (outputs, inputs, 1, 1), Layout.POINTWISE)
    yield Tensor(f"{path}.bias", (outputs,))


def resnet(path: str, inputs: int, outputs: int, time_width: int | None = None) -> Iterator[Tensor]:
    """Tensors of diffusers' `ResnetBlock2D`; the shortcut is there only where channels change."""
    yield from norm(f"{path}.norm1", inputs)
    yield from convolution(f"{path}.conv1", inputs, outputs)
    if time_width is not None:
        yield from linear(f"{path}.time_emb_proj", time_width, outputs)
    yield from norm(f"{path}.norm2", outputs)
    yield from convolution(f"{path}.conv2", outputs, outputs)
    if inputs != outputs:
        yield from pointwise(f"{path}.conv_shortcut", inputs, outputs)


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
    """Tensors of the layers of a CLIP tower."""
    width = spec.width
    for number in range(spec.layers):
        path = f"{prefix}.encoder.layers.{number}"
        yield from norm(f"{path}.layer_norm1", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{path}.self_attn.{part}", width, width)
        yield from norm(f"{path}.layer_norm2", width)
        yield from linear(f"{path}.mlp.fc1", width, spec.intermediate)
        yield from linear(f"{path}.mlp.fc2", spec.intermediate, width)
