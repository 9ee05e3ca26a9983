"""The tensors of PyTorch's small modules, by their path: what the networks' tables are made of."""

from __future__ import annotations

from collections.abc import Iterator

from .layout import Layout, Tensor


def linear(path: str, inputs: int, outputs: int, *, bias: bool = True) -> Iterator[Tensor]:
    """`nn.Linear`: weight (out, in)."""
    yield Tensor(f"{path}.weight", (outputs, inputs))
    if bias:
        yield Tensor(f"{path}.bias", (outputs,))


def norm(path: str, width: int) -> Iterator[Tensor]:
    """`nn.GroupNorm` or `nn.LayerNorm`."""
    yield Tensor(f"{path}.weight", (width,))
    yield Tensor(f"{path}.bias", (width,))


def convolution(
    path: str, inputs: int, outputs: int, kernel: int = 3, *, bias: bool = True
) -> Iterator[Tensor]:
    """`nn.Conv2d`: weight (out, in, kernel, kernel)."""
    yield Tensor(f"{path}.weight", (outputs, inputs, kernel, kernel), Layout.CONVOLUTION)
    if bias:
        yield Tensor(f"{path}.bias", (outputs,))


def pointwise(path: str, inputs: int, outputs: int) -> Iterator[Tensor]:
    """`nn.Conv2d` with a 1×1 kernel, which is a linear layer on channels."""
    yield Tensor(f"{path}.weight", (outputs, inputs, 1, 1), Layout.POINTWISE)
    yield Tensor(f"{path}.bias", (outputs,))


def resnet(path: str, inputs: int, outputs: int, time_width: int | None = None) -> Iterator[Tensor]:
    """diffusers' `ResnetBlock2D`; the shortcut is there only where channels change."""
    yield from norm(f"{path}.norm1", inputs)
    yield from convolution(f"{path}.conv1", inputs, outputs)
    if time_width is not None:
        yield from linear(f"{path}.time_emb_proj", time_width, outputs)
    yield from norm(f"{path}.norm2", outputs)
    yield from convolution(f"{path}.conv2", outputs, outputs)
    if inputs != outputs:
        yield from pointwise(f"{path}.conv_shortcut", inputs, outputs)
