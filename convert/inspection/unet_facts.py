"""What can be told of a UNet, alone or in a whole model's file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ipa.contract.base_sites import base_name
from ipa.contract.left_out import LeftOut

from ..containers.checkpoint import Checkpoint
from ..reading.recognition import base_of, context_width, input_channels, other_kind
from ..reading.single_file import AVERAGES, beside, component_of, has_averages
from .description import Facts

_INPUTS: Mapping[int, str] = {
    4: "text to image",
    5: "depth",
    7: "upscaler",
    8: "instruct-pix2pix",
    9: "inpainting",
}
# Cross-attentions of the whole UNet: fewer are of distilled or pruned relatives.
_SITES: Mapping[str, int] = {"SD1.5": 16, "SD2": 16, "SDXL": 70}
_PARTS: Mapping[str, str] = {"vae": "VAE", "text_encoder": "text encoder"}
_SECOND = {"text_encoder_2": "second text encoder"}
_MARKERS: Mapping[str, str] = {
    "v_pred": "marked as predicting v (v_pred)",
    "ztsnr": "marked as trained down to no signal at all (ztsnr)",
}


def unet_facts(checkpoint: Checkpoint) -> Facts:
    """Base, kind, and what is odd; a converted one's axes are MLX's."""
    inputs = input_channels(checkpoint)
    width = context_width(checkpoint)
    base = base_of(checkpoint)
    other = other_kind(checkpoint)
    remarks = [*([f"it is {other}"] if other else []), *_pruned(checkpoint, base)]
    return Facts(
        variant=_INPUTS.get(inputs, f"{inputs} input channels"),
        base=base or base_name(width),
        remarks=tuple(remarks),
    )


def single_file_facts(checkpoint: Checkpoint) -> Facts:
    """The same of a whole model in one file, with what it lacks and what it does not tell."""
    known = unet_facts(checkpoint)
    remarks = [*known.remarks, *_missing(checkpoint, known.base)]
    if has_averages(checkpoint):
        remarks.append("the UNet twice: its last weights, and their averages (convert with --ema)")
    if others := LeftOut.of(checkpoint.where, beside(checkpoint)).listed():
        remarks.append(f"beside its networks: {others}; it is left out")
    marks = [words for name, words in _MARKERS.items() if name in checkpoint]
    remarks += marks or _untold(known.base)
    return Facts(variant=known.variant, base=known.base, remarks=tuple(remarks))


def _pruned(checkpoint: Checkpoint, base: str) -> Iterator[str]:
    count = sum(
        name.endswith(".attn2.to_k.weight") and not name.startswith(AVERAGES) for name in checkpoint
    )
    whole = _SITES.get(base, count)
    if count != whole:
        yield (
            f"{count} cross-attentions where {base} has {whole}: pruned or distilled, as SSD-1B "
            "and Vega are; not supported"
        )


def _missing(checkpoint: Checkpoint, base: str) -> Iterator[str]:
    present = {component_of(name) for name in checkpoint}
    needed = {**_PARTS, **(_SECOND if base == "SDXL" else {})}
    for component, words in needed.items():
        if component not in present:
            yield f"no {words} inside: it was pruned away, and has to come from elsewhere"


def _untold(base: str) -> list[str]:
    if base == "SD2":
        return ["whether it predicts epsilon or v is guessed from one norm: --prediction-type says"]
    return ["no marker of what it predicts: taken for epsilon, unless --prediction-type says else"]
