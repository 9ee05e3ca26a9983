"""A whole model in one file: its parts, and what it says of itself.

Prefixes are those of CompVis' latent-diffusion (Stable Diffusion 1 and 2) and of Stability's
generative-models (SDXL). Every tensor belongs to one part, or to what lies beside all of them: the
leftovers of a training, a ControlNet, markers of other programs. Those are left out by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ipa.errors import CheckpointError

from ..containers.checkpoint import Checkpoint
from ..containers.stored import Stored
from ..tables.rules import Drop

UNET = "model.diffusion_model."

_PREFIXES: Mapping[str, str] = {
    UNET: "unet",
    "first_stage_model.": "vae",
    "cond_stage_model.transformer.": "text_encoder",  # Stable Diffusion 1
    "cond_stage_model.model.": "text_encoder",  # 2
    "conditioner.embedders.0.transformer.": "text_encoder",  # XL
    "conditioner.embedders.0.model.": "text_encoder",  # 2, saved by generative-models
    "conditioner.embedders.1.model.": "text_encoder_2",  # XL
}
AVERAGES = "model_ema."
_SCHEDULE = "the noise schedule, which the scheduler's config gives"
_DROPS = (
    *(
        Drop(name, _SCHEDULE)
        for name in (
            "betas",
            "alphas_cumprod",
            "alphas_cumprod_prev",
            "sqrt_alphas_cumprod",
            "sqrt_one_minus_alphas_cumprod",
            "log_one_minus_alphas_cumprod",
            "sqrt_recip_alphas_cumprod",
            "sqrt_recipm1_alphas_cumprod",
            "posterior_variance",
            "posterior_log_variance_clipped",
            "posterior_mean_coef1",
            "posterior_mean_coef2",
            "logvar",
            "denoiser.sigmas",
        )
    ),
    Drop("scale_factor", "the VAE's scaling factor, which its config gives"),
    Drop("model_ema.**", "averages of the training, beside the weights themselves"),
    Drop("embedding_manager.**", "textual inversion's training; no network computes with it"),
    Drop(
        "cond_stage_model.transformer.vision_model.**",
        "the image tower beside the text tower, which Stable Diffusion never uses",
    ),
    Drop("cond_stage_model.logit_scale", "the temperature of CLIP's training"),
    Drop("v_pred", "a marker, which the scheduler's config now says"),
    Drop("ztsnr", "a marker, which the scheduler's config now says"),
)
_OUTSIDE = "it lies in no network of Stable Diffusion"
_FEWEST_AVERAGES = 100  # fewer are leftovers, no whole set


@dataclass(frozen=True, slots=True)
class Parts:
    """The components in a file, under their own names, and what was left out and why."""

    components: Mapping[str, Checkpoint]
    dropped: Mapping[str, str]


def is_single_file(names: Mapping[str, Stored]) -> bool:
    """Whether these tensors are a whole model's, and not one component's."""
    return any(name.startswith(UNET) for name in names) and any(
        name.startswith(prefix)
        for name in names
        for prefix, component in _PREFIXES.items()
        if component != "unet"
    )


def component_of(name: str) -> str | None:
    """The component that a tensor belongs to; None if to none."""
    return next((part for prefix, part in _PREFIXES.items() if name.startswith(prefix)), None)


def beside(names: Iterable[str]) -> list[str]:
    """The tensors of no component that are no known leftover of a training."""
    return [
        name
        for name in names
        if component_of(name) is None and not any(drop.matches(name) for drop in _DROPS)
    ]


def tensors_of(checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """The components in a file, under their own names; other tensors are left out."""
    found: dict[str, dict[str, Stored]] = defaultdict(dict)
    for name, stored in checkpoint.items():
        for prefix, component in _PREFIXES.items():
            if name.startswith(prefix):
                found[component][name.removeprefix(prefix)] = stored
    return {
        component: Checkpoint(checkpoint.where, tensors, converted=False)
        for component, tensors in found.items()
    }


def has_averages(names: Mapping[str, Stored]) -> bool:
    """Whether a file holds a whole set of averaged weights (EMA)."""
    return sum(name.startswith(AVERAGES) for name in names) > _FEWEST_AVERAGES


def parts(checkpoint: Checkpoint, *, ema: bool = False) -> Parts:
    """Take a file apart into components; only names are looked at.

    Args:
        checkpoint: The file.
        ema: Take the UNet's averaged weights in place of the last ones.

    Raises:
        CheckpointError: Averages are asked for and not there.
    """
    reasons = {
        name: next((drop.reason for drop in _DROPS if drop.matches(name)), None)
        for name in checkpoint
    }
    dropped = {name: reason for name, reason in reasons.items() if reason is not None}
    tensors = {name: stored for name, stored in checkpoint.items() if name not in dropped}
    dropped |= dict.fromkeys(beside(tensors), _OUTSIDE)
    found = tensors_of(Checkpoint(checkpoint.where, tensors, converted=False))
    if ema and "unet" in found:
        averages = dict(_averages(checkpoint, found["unet"]))
        found["unet"] = Checkpoint(checkpoint.where, averages, converted=False)
        dropped = {name: why for name, why in dropped.items() if not name.startswith(AVERAGES)}
    return Parts(found, dropped)


def _averages(checkpoint: Checkpoint, unet: Mapping[str, Stored]) -> Iterator[tuple[str, Stored]]:
    """The UNet's averaged weights. Their names have no dots: each is made, none is parsed."""
    for name in unet:
        average = AVERAGES + f"diffusion_model.{name}".replace(".", "")
        if average not in checkpoint:
            raise CheckpointError(
                f"{checkpoint.where} holds no averaged (EMA) weights",
                found=f"no {average}",
                remedy="convert it without ema: most published files hold one set alone, and call "
                "the averages by the plain names",
            )
        yield name, checkpoint[average]
