"""The cross-attention sites of a UNet: where image prompts enter, and under which number.

IP-Adapter files number the attention processors in the order in which diffusers' UNet class
registers its blocks: down, then up, then mid. Every transformer block counts twice (self-attention
even, cross-attention odd). Source: ip_adapter/ip_adapter.py `set_ip_adapter` over
`unet.attn_processors`. Many sites share one shape, so a wrong order passes every shape check:
the order is stated here, once, as data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .unet_spec import UNetSpec

Section = Literal["down", "mid", "up"]

Transformer: TypeAlias = tuple[Section, int, int]
"""Section, index of the block in it, index of the transformer in the block. Its inner blocks, one
for SD1.5 and up to ten for SDXL, are sites of their own."""

SECTIONS: tuple[Section, ...] = ("down", "mid", "up")
"""In the order of execution."""


@dataclass(frozen=True, slots=True)
class Site:
    """One cross-attention of the UNet.

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
        """The transformer that it belongs to."""
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
