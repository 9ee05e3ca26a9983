"""The start of the loop: noise, or a picture's latents under noise; and the part that is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ipa.arrays import Floats
from ipa.backend.protocol import Backend
from ipa.backend.schedule import Step
from ipa.prepare.editing.edits import Edits, Source
from ipa.prepare.samplers.noise import Streams

from .plan import Plan, starting_noise


@dataclass(frozen=True, slots=True)
class Kept:
    """The part of a picture that a mask keeps: its latents, under the noise of the next step."""

    latents: Floats
    noise: Floats
    mask: Floats
    steps: tuple[Step, ...]

    def blend(self, made: Floats, number: int) -> Floats:
        """The latents after step `number`, with the kept part put back; clean after the last."""
        source = self.latents
        if number + 1 < len(self.steps):
            source = noised(self.latents, self.noise, self.steps[number + 1])
        return (np.float32(1.0) - self.mask) * source + self.mask * made


@dataclass(frozen=True, slots=True)
class Start:
    """The start of a loop: first latents, the kept part, more channels for the network.

    `channels` is (N, 1 + C, h, w): the mask, and the latents of the masked picture.
    """

    latents: Floats
    kept: Kept | None = None
    channels: Floats | None = None


def begin(plan: Plan, backend: Backend, streams: Streams) -> Start:
    """Make the start of a run; draws from the pictures' streams, in diffusers' order.

    The noise of the picture's posterior (where it is encoded at all), the starting noise, and that
    of the masked picture's posterior, which diffusers draws even where it has no use for it.
    """
    edits, steps = plan.edits, plan.schedule.steps
    if edits is None or (edits.from_noise and edits.is_channels):
        clean = None
    elif edits.latents is not None:
        clean = edits.latents
    else:
        clean = _sampled(plan, backend, streams, edits, Source.pixels)
    noise = starting_noise(plan, streams)
    if clean is None or edits is None or edits.from_noise:
        latents = noise * np.float32(plan.schedule.noise_scale)
    else:
        latents = noised(clean, noise, steps[0])
    if edits is None or not edits.has_masks:
        return Start(latents)
    factor = backend.model.vae.scale_factor
    mask = np.concatenate([source.latent_mask(factor) for source in edits.sources])
    mask = np.broadcast_to(mask, (len(plan.seeds), *mask.shape[1:]))
    if edits.is_channels:
        hidden = _sampled(plan, backend, streams, edits, Source.masked_pixels)
        return Start(latents, channels=np.concatenate([mask, hidden], axis=1))
    streams.source_rows(plan.latent_shape)
    assert clean is not None
    return Start(latents, Kept(clean, noise, mask, steps))


def noised(latents: Floats, noise: Floats, step: Step) -> Floats:
    """Clean latents at the noise level of a row: diffusers' add_noise."""
    return np.float32(step.signal_scale) * latents + np.float32(step.noise_scale) * noise


def _sampled(
    plan: Plan,
    backend: Backend,
    streams: Streams,
    edits: Edits,
    pixels: Callable[[Source], Floats],
) -> Floats:
    """Latents (N, C, h, w) drawn from the posteriors of the sources; each is encoded once."""
    posteriors = [backend.encode(pixels(source)) for source in edits.sources]
    rows = []
    for number, noise in enumerate(streams.source_rows(plan.latent_shape)):
        mean, deviation = posteriors[number % len(posteriors)]
        rows.append(mean + deviation * noise[None])
    return np.concatenate(rows)
