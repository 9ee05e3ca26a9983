"""Which parts of a model each stage of a run uses, by the names of `ipa.backend.residency`."""

from __future__ import annotations

from collections.abc import Mapping

from ipa.model.controlnet import ControlNetSpec
from ipa.request.embeds import ImageEmbeds

from ..plan import Plan, PlannedPrompt
from ..previews import is_fitted


def stage_parts(plan: Plan, encoders: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """The parts of the model that each stage of a run uses, by the names of `Residency`.

    `encoders` has the part that is each adapter's image encoder.
    """
    texts = {"text_encoder", "text_encoder_2"}
    images = set[str]()
    for prompt in plan.prompts:
        images.add(f"adapter {prompt.adapter}")
        if _sees(prompt):
            images.add(encoders.get(prompt.adapter, ""))
        if prompt.features.direction is not None:
            images |= texts
    nets = {control.branch.name for control in plan.controls}
    controls = {f"controlnet {name}" for name in nets}
    acting = {
        f"controlnet {name}"
        for name in nets
        if isinstance(plan.loaded.controlnets[name].spec, ControlNetSpec)
    }
    adapters = {f"adapter {prompt.adapter}" for prompt in plan.prompts}
    shown = {"vae"} if is_fitted(plan.request, plan.loaded.model.vae) else set()
    stages = {
        "encode": {"vae"} if plan.edits is not None else set(),
        "text": texts,
        "images": images,
        "condition": {"unet", *controls, *adapters},
        "denoise": {"unet", *acting, *shown},
        "decode": {"vae"} if plan.request.output_type != "latent" else set(),
    }
    return {name: frozenset(parts) for name, parts in stages.items() if parts}


def reading_parts(name: str, encoders: Mapping[str, str]) -> tuple[str, ...]:
    """The parts that see pictures for an adapter, and texts that are taken away from them."""
    return (encoders.get(name, ""), f"adapter {name}", "text_encoder", "text_encoder_2")


def _sees(prompt: PlannedPrompt) -> bool:
    """Whether pictures of an image prompt go through its encoder."""
    features = prompt.features
    given = (features.source, features.negative)
    is_seen = any(one is not None and not isinstance(one, ImageEmbeds) for one in given)
    return is_seen or features.closer is not None
