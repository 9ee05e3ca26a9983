"""Base models by the width of the UNet's context, which every file that touches attn2 shows."""

from __future__ import annotations

from collections.abc import Mapping

BASES: Mapping[int, str] = {768: "SD1.5", 1024: "SD2", 1280: "SDXL refiner", 2048: "SDXL"}
"""Names of the public ones."""


def base_name(width: int) -> str:
    """The base model with a context of this width, in words."""
    return BASES.get(width, f"context width {width}")
