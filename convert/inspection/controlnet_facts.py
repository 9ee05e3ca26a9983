"""What can be told of a ControlNet beyond its family, and what cannot."""

from __future__ import annotations

from collections.abc import Mapping

from ipa.contract.controlnet_spec import ControlNetSpec
from ipa.contract.errors import CheckpointError

from ..containers.checkpoint import Checkpoint
from ..reading.controlnet_config import detect
from ..tables import controlnet
from .description import Facts

_BASES: Mapping[int, str] = {768: "SD1.5", 1024: "SD2", 2048: "SDXL"}
# Of SDXL, by the transformers of its two coarser levels (diffusers/controlnet-canny-sdxl-1.0-*).
_SIZES: Mapping[tuple[bool, tuple[int, ...]], str] = {
    (True, (2, 10)): "full",
    (True, (0, 1)): "mid",
    (False, (0, 0)): "small",
}
_KIND_IS_OPEN = "edges, depth, a pose …: which kind of picture it wants is not in the weights"
_POOLING_IS_OPEN = "whether it is shuffle, which needs global_pool_conditions, is not either"


def controlnet_facts(checkpoint: Checkpoint) -> Facts:
    """Base, size, spelling and control picture's channels; then what no tensor tells."""
    spelling = _spelling(checkpoint)
    try:
        spec = ControlNetSpec.from_config(detect(checkpoint), checkpoint.where)
    except CheckpointError as error:
        return Facts(remarks=(*spelling, f"structure not known: {error.found}"))
    base = _BASES[spec.context_width]
    channels = f"{spec.conditioning_channels} channels of the control picture"
    pooling = (_POOLING_IS_OPEN,) if base == "SD1.5" else ()
    return Facts(
        variant=_size(spec),
        base=base,
        remarks=(channels, *spelling, _KIND_IS_OPEN, *pooling),
    )


def _size(spec: ControlNetSpec) -> str:
    """SDXL's; other bases come in one size."""
    if spec.addition is None:
        return ""
    counts = spec.transformer_layers[-2:]
    return _SIZES.get((any(spec.down_attention), counts), f"{counts} transformers")


def _spelling(checkpoint: Checkpoint) -> tuple[str, ...]:
    if checkpoint.converted:
        return ()
    if any(controlnet.DROPS[0].matches(name) for name in checkpoint):
        return ("original naming, with the whole base model beside it",)
    if "controlnet_cond_embedding.conv_in.weight" in checkpoint:
        return ("diffusers' naming",)
    return ("original naming",)
