"""The parts of a LoRA's file beside its matrices: learned words, and what is not used."""

from __future__ import annotations

from collections.abc import Mapping

BUNDLED = "bundle_emb."
"""The prefix of learned words in a LoRA's file (OneTrainer)."""


EQUAL = "they stand in the file under other names too, with the same values"


DIFFERENT = (
    "they stand in the file under other names too, with other values, which are used as in "
    "diffusers"
)


_SHOWN = 3  # names of tensors in a warning


def left_out_warnings(file: str, left_out: Mapping[str, str]) -> list[str]:
    """Warnings of tensors that are not used, reason by reason; none for copies."""
    by_reason: dict[str, list[str]] = {}
    for name, why in sorted(left_out.items()):
        if why != EQUAL:
            by_reason.setdefault(why, []).append(name)
    return [
        f"{file}: {len(names)} tensors were left out, since {why}: {', '.join(names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for why, names in by_reason.items()
    ]
