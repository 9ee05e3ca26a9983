"""Cross-attention sites of a UNet: their order, names, and the known bases' numbers of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .unet import UNetSpec

Section = Literal["down", "mid", "up"]


Transformer: TypeAlias = tuple[Section, int, int]
"""Section, index of the block in it, index of the transformer in the block. Its inner blocks, one
for SD1.5 and up to ten for SDXL, are sites of their own."""


SECTIONS: tuple[Section, ...] = ("down", "mid", "up")
"""The sections of a UNet in the order of execution."""


@dataclass(frozen=True, slots=True)
class Site:
    """A cross-attention of the UNet.

    Attributes:
        number: Its number in IP-Adapter files: 1, 3, 5, …
        path: Its module path in diffusers, ending in `attn2`.
        section: "down", "mid" or "up".
        block: Index of the block in its section (0 for mid).
        attention: Index of the transformer in its block.
        width: Channels of the queries, and so of K and V.
    """

    number: int
    path: str
    section: Section
    block: int
    attention: int
    width: int

    @property
    def self_attention(self) -> tuple[int, str]:
        """Number and path of the self-attention of the same transformer block."""
        return self.number - 1, self.path.removesuffix("attn2") + "attn1"

    @property
    def transformer(self) -> Transformer:
        """The transformer that the site belongs to."""
        return self.section, self.block, self.attention


def cross_attention_sites(spec: UNetSpec) -> tuple[Site, ...]:
    """All sites of a UNet in the order of their numbers (16 for SD1.5, 70 for SDXL)."""
    return tuple(
        Site(2 * rank + 1, path, section, block, attention, width)
        for rank, (path, section, block, attention, width) in enumerate(_walk(spec))
    )


def transformers(sites: Iterable[Site]) -> tuple[Transformer, ...]:
    """The transformers of a UNet in the order of execution: 16 for SD1.5, 11 for SDXL."""
    found = {site.transformer for site in sites}
    return tuple(sorted(found, key=lambda t: (SECTIONS.index(t[0]), *t[1:])))


def _walk(spec: UNetSpec) -> Iterator[tuple[str, Section, int, int, int]]:
    levels = len(spec.channels)
    for block, attends in enumerate(spec.down_attention):
        for attention in range(spec.layers[block] if attends else 0):
            yield from _blocks("down", block, attention, block, spec)
    for block, attends in enumerate(spec.up_attention):
        level = levels - 1 - block
        for attention in range(spec.layers[level] + 1 if attends else 0):
            yield from _blocks("up", block, attention, level, spec)
    yield from _blocks("mid", 0, 0, levels - 1, spec)


def _blocks(
    section: Section, block: int, attention: int, level: int, spec: UNetSpec
) -> Iterator[tuple[str, Section, int, int, int]]:
    prefix = "mid_block" if section == "mid" else f"{section}_blocks.{block}"
    for layer in range(spec.transformer_layers[level]):
        path = f"{prefix}.attentions.{attention}.transformer_blocks.{layer}.attn2"
        yield path, section, block, attention, spec.channels[level]


_NAMES: Mapping[int, str] = {768: "SD1.5", 1024: "SD2", 1280: "SDXL refiner", 2048: "SDXL"}


def base_name(context_width: int) -> str:
    """The base model with this width of context, in words."""
    return _NAMES.get(context_width, f"context width {context_width}")


def _unet(
    channels: tuple[int, ...],
    down: tuple[bool, ...],
    transformer_layers: tuple[int, ...],
    context_width: int,
    layers: int = 2,
) -> UNetSpec:
    """A spec with the fields that sites depend on; the rest is any value that fits."""
    levels = len(channels)
    return UNetSpec(
        in_channels=4,
        out_channels=4,
        channels=channels,
        down_attention=down,
        up_attention=down[::-1],
        layers=(layers,) * levels,
        transformer_layers=transformer_layers,
        heads=(8,) * levels,
        context_width=context_width,
        norm_groups=32,
        norm_eps=1e-5,
        linear_projection=False,
        flip_sin_to_cos=True,
        freq_shift=0,
        upcast_attention=False,
        sample_size=None,
    )


SITES: Mapping[str, tuple[Site, ...]] = {
    "SD1.5": cross_attention_sites(
        _unet((320, 640, 1280, 1280), (True, True, True, False), (1, 1, 1, 1), 768)
    ),
    "SDXL": cross_attention_sites(_unet((320, 640, 1280), (False, True, True), (1, 2, 10), 2048)),
}
"""The sites of each base that adapters are numbered by: 16 and 70."""


DEMO = "demo"


_DEMO_SITES = cross_attention_sites(
    _unet((64, 96, 128), (False, True, True), (1, 1, 1), 128, layers=1)
)


def is_demo(sites: Sequence[Site]) -> bool:
    """Whether these are the embedded demo model's sites, of which presets know."""
    return tuple(sites) == _DEMO_SITES


def structure_name(sites: Sequence[Site]) -> str | None:
    """The base whose transformers stand in the same places: a key of `SITES`, or None.

    SD2 has those of SD1.5; Kolors those of SDXL.
    """
    layers = transformers(sites)
    return next((name for name, others in SITES.items() if transformers(others) == layers), None)
