"""All differences as the page's script reads them: names once, numbers short."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from ..difference import Difference
from ..explanation import explain_stage
from .markup import Markup
from .stage_tree import ancestry

COLUMNS = (
    "relative_l2",
    "ratio",
    "limit",
    "floor",
    "max_abs",
    "one_minus_cosine",
    "psnr_db",
    "slope",
    "bias",
    "median",
    "p999",
)
"""The numbers of a row. Before them stand its places in `phases`, `paths` and `shapes`, and whether
it is bad and sketched."""

_DIGITS = 4


def stage_data(differences: Sequence[Difference]) -> Markup:
    """JSON that may stand inside a script element.

    `paths` are of path, explanation, block and layer; a number that is not finite is a string.
    """
    phases: dict[str, int] = {}
    paths: dict[tuple[str, ...], int] = {}
    shapes: dict[str, int] = {}
    rows = []
    for one in differences:
        phase, block, layer = ancestry(one.stage)
        path = one.stage.partition("/")[2]
        told = (path, explain_stage(one.stage), block, layer)
        shape = " × ".join(map(str, one.shape))
        places = (
            phases.setdefault(phase, len(phases)),
            paths.setdefault(told, len(paths)),
            shapes.setdefault(shape, len(shapes)),
        )
        rows.append([*places, int(one.bad), int(one.sketched), *map(_number, row_values(one))])
    everything = {
        "columns": COLUMNS,
        "phases": list(phases),
        "paths": list(paths),
        "shapes": list(shapes),
        "rows": rows,
    }
    text = json.dumps(everything, separators=(",", ":"))
    # A name may say "</script>"; inside JSON these signs can only stand in strings.
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def row_values(one: Difference) -> tuple[float | None, ...]:
    """The numbers of a row, by `COLUMNS`."""
    of = one.measures
    return (
        of.relative_l2,
        one.ratio,
        one.limit,
        one.floor,
        of.max_abs,
        1 - of.cosine,
        of.psnr_db,
        of.slope,
        of.bias,
        of.quantiles[0],
        of.quantiles[3],
    )


def _number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return None if value is None else float(f"{value:.{_DIGITS}g}")
    return str(value)
