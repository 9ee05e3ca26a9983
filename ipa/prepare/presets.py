"""Presets of layers by what they carry, InstantStyle's: which transformers of a base they mean.

For SDXL as in InstantStyle (arXiv 2404.02733) and diffusers' guide: style is
up_blocks.0.attentions.1, layout is down_blocks.2.attentions.1. Nothing as clean is known of SD1.5:
there they are what ComfyUI calls "style transfer" and "composition".
"""

from __future__ import annotations

from collections.abc import Mapping

from .weight_types import TABLES

STYLE_LAYOUT: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "style": {"SDXL": {6: 1.0}, "SD1.5": TABLES["style transfer"]["SD1.5"]},
    "layout": {"SDXL": {3: 1.0}, "SD1.5": TABLES["composition"]["SD1.5"]},
}
"""Factors by the number of the transformer in the order of execution, for each base."""
