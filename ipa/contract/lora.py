"""LoRA: changes of low rank beside the weights of a base model, as a backend keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .errors import RequestError, shown
from .weights import plain_number

BUNDLED = "bundle_emb."
"""What the names of learned words begin with that lie in a LoRA's file (OneTrainer)."""

EQUAL = "they stand in the file under other names too, with the same values"
DIFFERENT = (
    "they stand in the file under other names too, with other values, which are used as in "
    "diffusers"
)
_SHOWN = 3  # names of tensors in a warning


@dataclass(frozen=True, slots=True)
class LoadedLora:
    """What a backend knows of a LoRA after loading it.

    `layers` counts the layers that it changes, by network; `nbytes` is what its matrices hold, and
    `originals_nbytes` the weights that stay beside fused ones. `left_out` has the names in the file
    of tensors that are not used, and why.
    """

    layers: Mapping[str, int]
    nbytes: int
    originals_nbytes: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)


def left_out_warnings(file: str, left_out: Mapping[str, str]) -> list[str]:
    """What to say of tensors that are not used, reason by reason; of copies nothing."""
    by_reason: dict[str, list[str]] = {}
    for name, why in sorted(left_out.items()):
        if why != EQUAL:
            by_reason.setdefault(why, []).append(name)
    return [
        f"{file}: {len(names)} tensors were left out, since {why}: {', '.join(names[:_SHOWN])}"
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for why, names in by_reason.items()
    ]


@dataclass(frozen=True, slots=True)
class LoraScale:
    """How strongly a LoRA acts in the UNet, and in the text encoders."""

    unet: float
    text: float

    @classmethod
    def of(cls, scale: float) -> LoraScale:
        """The same everywhere."""
        return cls(scale, scale)

    def __bool__(self) -> bool:
        return self.unet != 0.0 or self.text != 0.0

    def at(self, network: str) -> float:
        """In one network."""
        return self.unet if network == "unet" else self.text


class LoraSet(Protocol):
    """The LoRAs beside one loaded model.

    A layer's output is W x + Σ_i scale_i · (alpha_i / rank_i) · up_i (down_i x), over the LoRAs
    that are used with a scale that is not 0; the base model's own weights are never written to.
    """

    def load(self, name: str, path: Path, *, fuse: bool) -> LoadedLora:
        """Load a file under a new name, all or nothing; it changes nothing until it is used.

        With `fuse`, sums of weights are computed when its scale changes, not at every step.

        Raises:
            CheckpointError: A tensor has no layer in this model or another shape, or no number; or
                it is for another base model.
            RequestError: Layers are quantised and cannot be fused.
        """

    def unload(self, name: str) -> None:
        """Forget one, whose scale has been set to 0 or left out of the last `use`."""

    def use(self, scales: Mapping[str, LoraScale]) -> None:
        """Set which LoRAs act from now on, and how strongly; the others, and those at 0, do not.

        Where none acts, the base model's own layers stand, bit for bit.
        """


def plain_lora_scales(given: object) -> dict[str, float]:
    """Scales by name in Python's own numbers. Raises RequestError for anything else."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise RequestError(
            "loras must be a dict of names and scales",
            found=shown(given),
            remedy='write loras={"pixel": 0.5}; load them first with load_lora',
        )
    return {name: plain_number(scale, f"loras[{name!r}]") for name, scale in given.items()}
