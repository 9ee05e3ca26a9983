"""The decoder of a tiny autoencoder: diffusers' AutoencoderTiny, madebyollin's TAESD.

The original counts its clamp as a layer, which diffusers' does not: its numbers are one larger.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipa.model.vae import TinyVaeSpec

from .layout import Tensor
from .modules import convolution
from .rules import Drop, Rename
from .spelling import Names
from .table import Table

TITLE = "tiny VAE decoder"

RENAMES = (Rename("decoder.**", "**"),)
DROPS = (Drop("encoder.**", "the encoder, which no preview needs"),)


def table(spec: TinyVaeSpec) -> Table:
    """The table of a tiny decoder, of a whole autoencoder in diffusers' names or of its file."""
    rows = tuple(tensors(spec))
    return Table(
        title=TITLE,
        tensors=rows,
        renames=RENAMES,
        aliases=(Names({_original(row.name): row.name for row in rows}),),
        drops=DROPS,
    )


def tensors(spec: TinyVaeSpec) -> Iterator[Tensor]:
    """Every tensor, as diffusers names and stores it."""
    yield from convolution("decoder.layers.0", spec.latent_channels, spec.width)
    number, last = 2, len(spec.blocks) - 1  # after the activation
    for level, blocks in enumerate(spec.blocks):
        for block in range(number, number + blocks):
            for i in (0, 2, 4):  # activations between them
                yield from convolution(f"decoder.layers.{block}.conv.{i}", spec.width, spec.width)
        number += blocks + (level < last)  # an upsampling has no weights
        outputs = spec.out_channels if level == last else spec.width
        name = f"decoder.layers.{number}"
        yield from convolution(name, spec.width, outputs, bias=level == last)
        number += 1


def _original(name: str) -> str:
    _, _, number, rest = name.split(".", 3)
    return f"{int(number) + 1}.{rest}"
