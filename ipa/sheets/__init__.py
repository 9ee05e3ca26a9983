"""Labelled sheets of pictures: sweeps over settings, likeness to a reference, heat of influence.

from ipa.sheets import Axis, Sweep, draw_sheet, make_cells, sweep_blocks
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipa.prepare.scaling.presets import ANYWHERE
    from ipa.request.combining import COMBINE_MODES
    from ipa.request.scales import EMBEDS_SCALINGS

    from .likeness import Likeness, Suggestion, suggest_scale
    from .mask_overlay import overlay
    from .sheet import SheetBlock, SheetCell, SheetRow, draw_sheet
    from .sweep import AXES, Axis, Cell, Made, Sweep, make_cells
    from .sweep_report import describe_sweep, suggest_scales, suggestion_notes, sweep_blocks

__all__ = [
    "ANYWHERE",
    "AXES",
    "COMBINE_MODES",
    "EMBEDS_SCALINGS",
    "Axis",
    "Cell",
    "Likeness",
    "Made",
    "SheetBlock",
    "SheetCell",
    "SheetRow",
    "Suggestion",
    "Sweep",
    "describe_sweep",
    "draw_sheet",
    "make_cells",
    "overlay",
    "suggest_scale",
    "suggest_scales",
    "suggestion_notes",
    "sweep_blocks",
]

_HOMES = {
    **dict.fromkeys(("AXES", "Axis", "Cell", "Made", "Sweep", "make_cells"), "ipa.sheets.sweep"),
    **dict.fromkeys(("Likeness", "Suggestion", "suggest_scale"), "ipa.sheets.likeness"),
    **dict.fromkeys(("SheetBlock", "SheetCell", "SheetRow", "draw_sheet"), "ipa.sheets.sheet"),
    **dict.fromkeys(
        ("describe_sweep", "suggest_scales", "suggestion_notes", "sweep_blocks"),
        "ipa.sheets.sweep_report",
    ),
    "ANYWHERE": "ipa.prepare.scaling.presets",
    "COMBINE_MODES": "ipa.request.combining",
    "EMBEDS_SCALINGS": "ipa.request.scales",
    "overlay": "ipa.sheets.mask_overlay",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        """The public names."""
        return list(__all__)
