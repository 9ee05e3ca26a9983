"""What can be told of a T2I-Adapter beyond its family, and what cannot."""

from __future__ import annotations

from collections.abc import Mapping

from ipa.contract.errors import CheckpointError
from ipa.contract.t2i_adapter_spec import Feature, T2IAdapterSpec

from ..containers.checkpoint import Checkpoint
from ..reading.t2i_adapter_config import detect_t2i_adapter
from ..tables import t2i_adapter
from .description import Facts

_BASES: Mapping[tuple[Feature, ...], str] = {
    ((320, 8), (640, 16), (1280, 32), (1280, 64)): "SD1.5",
    ((320, 16), (640, 16), (1280, 32), (1280, 32)): "SDXL",
}
_KIND_IS_OPEN = "edges, depth, a pose …: which kind of picture it wants is not in the weights"


def t2i_adapter_facts(checkpoint: Checkpoint) -> Facts:
    """Base, type, spelling and control picture's channels; then what no tensor tells."""
    spelling = _spelling(checkpoint)
    try:
        spec = T2IAdapterSpec.from_config(detect_t2i_adapter(checkpoint), checkpoint.where)
    except CheckpointError as error:
        return Facts(remarks=(*spelling, f"structure not known: {error.found}"))
    channels = "1 channel" if spec.in_channels == 1 else f"{spec.in_channels} channels"
    return Facts(
        variant=spec.adapter_type,
        base=_BASES.get(spec.features, ""),
        remarks=(f"{channels} of the control picture", *spelling, _KIND_IS_OPEN),
    )


def _spelling(checkpoint: Checkpoint) -> tuple[str, ...]:
    if checkpoint.converted:
        return ()
    is_diffusers = any(name.startswith(t2i_adapter.PREFIX) for name in checkpoint)
    return ("diffusers' naming",) if is_diffusers else ("original naming",)
