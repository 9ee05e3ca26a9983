"""Which layers are quantised: a closed table of names in our MLX modules, and what becomes of them.

The matrices of attention and feed-forward in the UNet's transformer blocks and in CLIP's towers.
The rest keeps its precision: convolutions (shortcuts among them), norms, embeddings of time, size,
tokens and positions, CLIP's projections, the VAE, and adapters. So do proj_in and proj_out around
the blocks, which every pixel passes: in SD1.5's UNet at 8 bits these 32 matrices add an error of
8.2e-3 to one of 9.3e-3 by the 160 others, for 23 MB of 1492 (tests/benchmarks/quantization.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ipa.model.quantization import Quantization, Shape

from ..containers import quantization
from ..containers.dtypes import Array
from .rules import compile_pattern

_TRANSFORMERS = ("down_blocks.#.attentions.#", "mid_block.attentions.#", "up_blocks.#.attentions.#")
_BLOCK_LAYERS = (
    *(f"attn1.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out")),
    *(f"attn2.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out")),
    "ff.proj_in",
    "ff.proj_out",
)
_TOWER_LAYERS = (
    *(f"attention.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out")),
    "feed_forward.proj_in",
    "feed_forward.proj_out",
)

PATTERNS = (
    *(f"{t}.transformer_blocks.#.{x}.weight" for t in _TRANSFORMERS for x in _BLOCK_LAYERS),
    *(f"layers.#.{layer}.weight" for layer in _TOWER_LAYERS),
)
"""Names of the matrices that are quantised (see `rules`), where their inputs are whole groups.

An adapter's keys and values are not among them: they are multiplied once per generation, and are
what an image prompt is made of. Their names begin with "sites."; a pattern for them belongs here.
"""

_COMPILED: re.Pattern[str] = re.compile(
    "|".join(f"(?:{compile_pattern(p).pattern})" for p in PATTERNS)
)


@dataclass(frozen=True, slots=True)
class Part:
    """One of the three tensors that a quantised matrix is stored as.

    Attributes:
        name: As `nn.QuantizedLinear` has it.
        shape: Its shape.
        dtype: Its safetensors tag; None is the matrix's own.
        compute: It, from the matrix, its tag, how, and a name for messages.
    """

    name: str
    shape: Shape
    dtype: str | None
    compute: Callable[[Array, str, Quantization, str], Array]


def is_quantized(name: str, shape: Shape, how: Quantization | None) -> bool:
    """Whether a tensor of our MLX modules, of this shape there, is quantised."""
    return how is not None and how.fits(shape) and _COMPILED.fullmatch(name) is not None


def parts(name: str, shape: Shape, how: Quantization) -> Iterator[Part]:
    """The tensors that a quantised matrix becomes."""
    path = name.removesuffix(".weight")
    yield Part(name, how.packed(shape), quantization.PACKED, quantization.packed)
    yield Part(f"{path}.scales", how.groups(shape), None, quantization.scales)
    yield Part(f"{path}.biases", how.groups(shape), None, quantization.biases)
