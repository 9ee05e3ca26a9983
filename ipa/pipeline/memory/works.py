"""What each stage of a planned run computes, by shapes: what a backend foretells memory from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ipa.backend.past import MAX_PAST
from ipa.backend.vae_memory import VaeMemory
from ipa.backend.work import (
    ConditionWork,
    DenoiseWork,
    ImagesWork,
    TextWork,
    VaeWork,
    Work,
)
from ipa.prepare.text.prompts import PlannedText

from ..plan import Plan, PlannedPrompt
from ..previews import FITTED, is_fitted


def stage_works(plan: Plan, vae_memory: VaeMemory) -> dict[str, list[Work]]:
    """The works of each stage that a run has, one after another.

    `vae_memory` is how pictures go through the VAE.
    """
    works: dict[str, list[Work]] = {}
    if plan.edits is not None and plan.edits.sources:
        works["encode"] = [_vae("encode", *plan.edits.sources[0].picture.size, vae_memory)]
    works["text"] = [_text(text) for text in plan.texts if text.tokens]
    images: list[Work] = [work for prompt in plan.prompts for work in _images(prompt, plan)]
    if images:
        works["images"] = images
    works["condition"] = [_condition(plan)]
    works["denoise"] = [_denoise(plan)]
    vae = plan.loaded.model.vae
    if is_fitted(plan.request, vae):
        height, width = (min(n // vae.scale_factor, FITTED) for n in (plan.height, plan.width))
        sides = (width * vae.scale_factor, height * vae.scale_factor)
        works["denoise"].append(_vae("decode", *sides, vae_memory))
    if plan.request.output_type != "latent":
        works["decode"] = [_vae("decode", plan.width, plan.height, vae_memory)]
    return works


def _vae(way: str, width: int, height: int, memory: VaeMemory) -> VaeWork:
    return VaeWork(
        way="encode" if way == "encode" else "decode", height=height, width=width, memory=memory
    )


def _text(text: PlannedText) -> TextWork:
    ids = text.ids
    return TextWork(chunks=ids.reshape(len(ids), -1, ids.shape[-1]).shape[1], tokens=ids.shape[-1])


def _text_tokens(plan: Plan) -> int:
    work = _text(plan.texts[-1])
    return work.chunks * work.tokens


def _images(prompt: PlannedPrompt, plan: Plan) -> Iterator[ImagesWork]:
    """The pictures that go through an encoder at once; embeds go through the projector alone."""
    loaded = plan.loaded.adapters[prompt.adapter].loaded
    features = prompt.features
    parts = None if features.closer is None else features.closer.parts
    counts = [
        len(rows) for rows in (features.source, features.negative) if isinstance(rows, np.ndarray)
    ]
    counts += [] if parts is None else [min(len(parts), _MOST_PARTS)]
    tokens = _tokens(prompt, plan)
    for count in counts or [1]:
        yield ImagesWork(
            adapter=loaded.spec,
            encoder=loaded.encoder if counts else None,
            pictures=count,
            tokens=tokens,
        )


_MOST_PARTS = 16  # of a closer look, encoded at once


def _tokens(prompt: PlannedPrompt, plan: Plan) -> int:
    """The image tokens of a prompt, all its pictures together."""
    loaded, source = plan.loaded.adapters[prompt.adapter].loaded, prompt.features.source
    states = loaded.encoder.tokens if loaded.encoder else 0
    pictures = len(source) if prompt.features.combine == "concat" else 1
    return (loaded.spec.tokens or states) * pictures


def _image_tokens(plan: Plan) -> tuple[int, ...]:
    return tuple(_tokens(prompt, plan) for prompt in plan.prompts)


def _condition(plan: Plan) -> ConditionWork:
    return ConditionWork(
        rows=len(plan.texts),
        text_tokens=_text_tokens(plan),
        image_tokens=_image_tokens(plan),
        controls=tuple(plan.loaded.controlnets[c.branch.name].spec for c in plan.controls),
        height=plan.height,
        width=plan.width,
    )


def _denoise(plan: Plan) -> DenoiseWork:
    """The largest step: guided if any is, with every control that ever acts."""
    acting = [c for c in plan.controls if np.asarray(c.table).any()]
    deep = plan.deep_part()
    return DenoiseWork(
        pictures=len(plan.seeds),
        rows=2 if any(plan.computed.guided) and plan.guided else 1,
        text_tokens=_text_tokens(plan),
        image_tokens=_image_tokens(plan),
        masked=tuple(prompt.masks is not None for prompt in plan.prompts),
        controls=tuple(plan.loaded.controlnets[c.branch.name].spec for c in acting),
        branch=None if deep is None else deep.branch,
        past=_past(plan),
        height=plan.height,
        width=plan.width,
    )


def _past(plan: Plan) -> int:
    """The last features that are kept while the last one is computed."""
    if plan.past_features() is None:
        return 0
    return min(plan.computed.forecasts.count(None) - 1, MAX_PAST)
