"""The base models of the Stable Diffusion family that adapters are published for.

Widths and blocks: unet/config.json of stable-diffusion-v1-5 and stable-diffusion-xl-base-1.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .sites import Site, cross_attention_sites, transformers
from .unet_spec import UNetSpec

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
    """What the sites depend on; the rest is any value that fits."""
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
"""Cross-attentions of each base that adapters are numbered by: 16 and 70."""

DEMO = "demo"
_DEMO_SITES = cross_attention_sites(
    _unet((64, 96, 128), (False, True, True), (1, 1, 1), 128, layers=1)
)


def is_demo(sites: Sequence[Site]) -> bool:
    """Whether these are the cross-attentions of the embedded model, of which presets know."""
    return tuple(sites) == _DEMO_SITES


def structure_name(sites: Sequence[Site]) -> str | None:
    """The base whose transformers stand in the same places: a key of `SITES`, or None.

    SD2 has those of SD1.5; Kolors those of SDXL.
    """
    own = transformers(sites)
    return next((name for name, known in SITES.items() if transformers(known) == own), None)
