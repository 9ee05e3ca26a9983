"""What can be told of a checkpoint beyond its family, from the shapes of its tensors.

What shapes cannot tell (a VAE's base, plus or plus-face) is said to be open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..containers.checkpoint import Checkpoint
from ..tables import (
    clip_spellings,
    clip_text,
    clip_vision,
    controlnet,
    ip_adapter,
    t2i_adapter,
    unet,
    vae,
)
from ..tables.families import CONTROLLED, LORA, ORIGINAL_UNET, ORIGINAL_VAE, SINGLE_FILE
from . import network_facts as clip_facts
from .adapter_facts import TITLE as INVERSION
from .adapter_facts import adapter_facts, inversion_facts, lora_facts
from .description import Facts
from .network_facts import (
    controlled_facts,
    controlnet_facts,
    single_file_facts,
    t2i_adapter_facts,
    unet_facts,
)


def facts(family: str, checkpoint: Checkpoint) -> Facts:
    """Describe a checkpoint of a known family."""
    describe = _DESCRIBERS.get(family)
    return describe(checkpoint) if describe else Facts()


def _vae(checkpoint: Checkpoint) -> Facts:
    return Facts(remarks=("all bases' VAEs look alike: config.json tells the scaling factor",))


def _vision(checkpoint: Checkpoint) -> Facts:
    return Facts(
        variant=clip_facts.vision_variant(checkpoint),
        remarks=clip_facts.vision_remarks(checkpoint),
    )


def _text(checkpoint: Checkpoint) -> Facts:
    return Facts(
        variant=clip_facts.text_variant(checkpoint), remarks=clip_facts.text_remarks(checkpoint)
    )


def _whole_clip(checkpoint: Checkpoint) -> Facts:
    return Facts(
        variant=clip_facts.vision_variant(checkpoint),
        remarks=clip_facts.whole_remarks(checkpoint),
    )


_DESCRIBERS: Mapping[str, Callable[[Checkpoint], Facts]] = {
    SINGLE_FILE: single_file_facts,
    CONTROLLED: controlled_facts,
    unet.TITLE: unet_facts,
    ORIGINAL_UNET: unet_facts,
    vae.TITLE: _vae,
    ORIGINAL_VAE: _vae,
    clip_vision.TITLE: _vision,
    clip_text.TITLE: _text,
    clip_spellings.WHOLE_TITLE: _whole_clip,
    ip_adapter.TITLE: adapter_facts,
    controlnet.TITLE: controlnet_facts,
    t2i_adapter.TITLE: t2i_adapter_facts,
    LORA: lora_facts,
    INVERSION: inversion_facts,
}
