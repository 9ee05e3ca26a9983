"""How much arithmetic a stage is, from shapes: two operations for each multiply-add.

Counted are matrix products, convolutions and both products of attentions, with as many rows as the
network is given. Left out is all that is of one number at a time: norms, activations, softmax. Keys
and values of text and image tokens belong to `condition`, since they are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ipa.arrays import Pair
from ipa.model.adapter import HEAD_WIDTH, AdapterSpec
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa.model.folder import ModelFolder
from ipa.model.sites import cross_attention_sites
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec

TOKENS = 77
"""Text tokens of a prompt."""


def matmul(rows: int, inputs: int, outputs: int) -> int:
    """Operations of a matrix product (rows, inputs) · (inputs, outputs)."""
    return 2 * rows * inputs * outputs


def convolution(pixels: int, inputs: int, outputs: int) -> int:
    """Operations of a 3×3 convolution that makes so many pixels."""
    return 9 * matmul(pixels, inputs, outputs)


def attention(rows: int, queries: int, keys: int, width: int) -> int:
    """Operations of scores and sums, whatever the number of heads."""
    return 2 * matmul(rows * queries, width, keys)


def step(spec: UNetSpec, latents: Pair, rows: int, image_tokens: Sequence[int] = ()) -> int:
    """Operations of one evaluation of a UNet.

    Args:
        spec: Its structure.
        latents: Height and width of the latents.
        rows: Of the network's input: pictures, twice with guidance.
        image_tokens: Of each image prompt.
    """
    return rows * sum(_unet(spec, latents, (TOKENS, *image_tokens)))


def condition(spec: UNetSpec, rows: int, tokens: Sequence[int]) -> int:
    """Operations of keys and values of all sites, for so many tokens of text and image prompts."""
    widths = sum(site.width for site in cross_attention_sites(spec))
    return sum(matmul(rows * count, spec.context_width, 2 * widths) for count in tokens)


def decode(spec: VaeSpec, latents: Pair) -> int:
    """Operations of decoding one picture."""
    return sum(_decoder(spec, latents))


def encode(spec: VaeSpec, latents: Pair) -> int:
    """Operations of encoding one picture to latents of this height and width."""
    return sum(_encoder(spec, latents))


def text(model: ModelFolder) -> int:
    """Operations of one prompt through a model's text encoders."""
    towers = (model.text_encoder, model.text_encoder_2)
    return sum(_text(tower) for tower in towers if tower is not None)


def image(adapter: AdapterSpec, encoder: ClipVisionSpec, pictures: int) -> int:
    """Operations of an image encoder, as far as an adapter needs it."""
    patches = (encoder.tokens - 1) * matmul(1, encoder.channels * encoder.patch_size**2, 1)
    first = patches * encoder.width
    if adapter.feature == "embedding":
        head = matmul(1, encoder.width, encoder.projection)
        return pictures * (first + encoder.layers * _clip_layer(encoder, encoder.tokens) + head)
    grey = pictures + 1
    return grey * (first + (encoder.layers - 1) * _clip_layer(encoder, encoder.tokens))


def projector(spec: AdapterSpec, states: int) -> int:
    """Operations of a projector ("linear", "resampler") for one row; `states` are the encoder's."""
    if spec.projector == "linear":
        return matmul(1, spec.feature_width, spec.tokens * spec.context_width)
    width, inner, count = spec.width, spec.heads * HEAD_WIDTH, spec.tokens
    layer = matmul(count, width, inner) + matmul(states + count, width, 2 * inner)
    layer += attention(1, count, states + count, inner) + matmul(count, inner, width)
    layer += 2 * matmul(count, width, 4 * width)
    ends = matmul(states, spec.feature_width, width) + matmul(count, width, spec.context_width)
    return ends + spec.layers * layer


def _unet(spec: UNetSpec, latents: Pair, contexts: Sequence[int]) -> Iterator[int]:
    """The parts of one row."""
    sizes = _levels(latents, len(spec.channels))
    first, last = spec.channels[0], len(spec.channels) - 1
    yield matmul(1, first, spec.time_width) + matmul(1, spec.time_width, spec.time_width)
    if spec.guidance_width is not None:
        yield matmul(1, spec.guidance_width, first)
    if spec.addition is not None:
        added, width = spec.addition.width, spec.time_width
        yield matmul(1, added, width) + matmul(1, width, width)
    yield convolution(_area(sizes[0]), spec.in_channels, first)
    for level, width in enumerate(spec.channels):
        pixels = _area(sizes[level])
        below = spec.channels[max(level - 1, 0)]
        for inputs in (below, *[width] * (spec.layers[level] - 1)):
            yield _resnet(pixels, inputs, width, spec.time_width)
            if spec.down_attention[level]:
                yield _transformer(spec, level, pixels, contexts)
        if level < last:
            yield convolution(_area(sizes[level + 1]), width, width)
    yield 2 * _resnet(_area(sizes[last]), spec.channels[last], spec.channels[last], spec.time_width)
    yield _transformer(spec, last, _area(sizes[last]), contexts)
    for block, attends in enumerate(spec.up_attention):
        yield from _up_block(spec, last - block, sizes, contexts if attends else None)
    yield convolution(_area(sizes[0]), first, spec.out_channels)


def _up_block(
    spec: UNetSpec, level: int, sizes: Sequence[Pair], contexts: Sequence[int] | None
) -> Iterator[int]:
    channels, pixels = spec.channels, _area(sizes[level])
    width, above = channels[level], channels[max(level - 1, 0)]
    carried = [channels[min(level + 1, len(channels) - 1)], *[width] * spec.layers[level]]
    skipped = [*[width] * spec.layers[level], above]
    for a, b in zip(carried, skipped, strict=True):
        yield _resnet(pixels, a + b, width, spec.time_width)
        if contexts is not None:
            yield _transformer(spec, level, pixels, contexts)
    if level > 0:
        yield convolution(_area(sizes[level - 1]), width, width)


def _resnet(pixels: int, inputs: int, outputs: int, time_width: int = 0) -> int:
    shortcut = matmul(pixels, inputs, outputs) if inputs != outputs else 0
    convolutions = convolution(pixels, inputs, outputs) + convolution(pixels, outputs, outputs)
    return convolutions + matmul(1, time_width, outputs) + shortcut


def _transformer(spec: UNetSpec, level: int, pixels: int, contexts: Sequence[int]) -> int:
    width = spec.channels[level]
    products = 4 + 2 + 8 + 4  # self-attention; queries and output; to the gated units and back
    block = products * matmul(pixels, width, width) + attention(1, pixels, pixels, width)
    block += sum(attention(1, pixels, tokens, width) for tokens in contexts)
    return 2 * matmul(pixels, width, width) + spec.transformer_layers[level] * block


def _decoder(spec: VaeSpec, latents: Pair) -> Iterator[int]:
    widths, pixels = spec.channels[::-1], _area(latents)
    if spec.post_quant_conv:
        yield matmul(pixels, spec.latent_channels, spec.latent_channels)
    yield convolution(pixels, spec.latent_channels, widths[0])
    yield _middle(spec, widths[0], pixels)
    for level, width in enumerate(widths):
        for inputs in (widths[max(level - 1, 0)], *[width] * spec.layers):
            yield _resnet(pixels, inputs, width)
        if level < len(widths) - 1:
            pixels *= 4
            yield convolution(pixels, width, width)
    yield convolution(pixels, widths[-1], spec.out_channels)


def _encoder(spec: VaeSpec, latents: Pair) -> Iterator[int]:
    widths, pixels = spec.channels, _area(latents) * spec.scale_factor**2
    yield convolution(pixels, spec.in_channels, widths[0])
    for level, width in enumerate(widths):
        for inputs in (widths[max(level - 1, 0)], *[width] * (spec.layers - 1)):
            yield _resnet(pixels, inputs, width)
        if level < len(widths) - 1:
            pixels //= 4
            yield convolution(pixels, width, width)
    yield _middle(spec, widths[-1], pixels)
    moments = 2 * spec.latent_channels
    yield convolution(pixels, widths[-1], moments)
    if spec.quant_conv:
        yield matmul(pixels, moments, moments)


def _middle(spec: VaeSpec, width: int, pixels: int) -> int:
    attends = 4 * matmul(pixels, width, width) + attention(1, pixels, pixels, width)
    return 2 * _resnet(pixels, width, width) + (attends if spec.mid_attention else 0)


def _text(spec: ClipTextSpec) -> int:
    head = matmul(1, spec.width, spec.projection) if spec.projection else 0
    return spec.layers * _clip_layer(spec, TOKENS) + head


def _clip_layer(spec: ClipTextSpec | ClipVisionSpec, tokens: int) -> int:
    products = 4 * matmul(tokens, spec.width, spec.width)
    products += 2 * matmul(tokens, spec.width, spec.intermediate)
    return products + attention(1, tokens, tokens, spec.width)


def _levels(latents: Pair, count: int) -> list[Pair]:
    """The sizes of a UNet's levels, each half of the one before, rounded up."""
    sizes = [latents]
    while len(sizes) < count:
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def _area(size: Pair) -> int:
    return size[0] * size[1]
