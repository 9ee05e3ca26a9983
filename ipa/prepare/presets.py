"""Presets of layers by what they carry, InstantStyle's: which transformers of a base they mean.

For SDXL as in InstantStyle (arXiv 2404.02733) and diffusers' guide: style is
up_blocks.0.attentions.1, layout is down_blocks.2.attentions.1. Nothing as clean is known of SD1.5:
there they are what ComfyUI calls "style transfer" and "composition".

Of the demo they were measured, one transformer at a time and in sets, at weight 1 with 20 pictures
of the training's renderer and a classifier that never saw the adapter (tests/demo/test_presets.py).
Style is the first and the last two: 20 pictures have the reference's colour, pattern and ground, 19
the shape that the words name. Layout is the four between: 19 have the reference's shape, all the
words' colour, pattern and ground. Of two pictures, one of each and no words: 19 shapes of the one,
19 colours, 20 patterns and 20 grounds of the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipa.contract.base_sites import DEMO

from .weight_types import TABLES

_DEMO_STYLE, _DEMO_LAYOUT = dict.fromkeys((0, 5, 6), 1.0), dict.fromkeys((1, 2, 3, 4), 1.0)

STYLE_LAYOUT: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "style": {"SDXL": {6: 1.0}, "SD1.5": TABLES["style transfer"]["SD1.5"], DEMO: _DEMO_STYLE},
    "layout": {"SDXL": {3: 1.0}, "SD1.5": TABLES["composition"]["SD1.5"], DEMO: _DEMO_LAYOUT},
}
"""Factors by the number of the transformer in the order of execution, for each base."""
