"""Previews of a run, and the colours of latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.arrays import Array, Floats
from ipa.backend.protocol import Backend
from ipa.errors import RequestError
from ipa.model.vae import VaeSpec
from ipa.prepare.images.pictures import to_pil
from ipa.request.request import Request

FITTED = 24
"""The side of the part that a map is fitted to, at most, in latents."""


@dataclass(frozen=True, slots=True)
class LatentColours:
    """A linear map to colours in [-1, 1]: latents times `factors`, (C, 3), plus `bias`, (3,)."""

    factors: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]

    def pictures(self, latents: Floats) -> Floats:
        """Map latents (N, C, h, w) to pictures (N, h, w, 3) in [0, 1]."""
        colours = latents.transpose(0, 2, 3, 1) @ self.factors + self.bias
        shown: Floats = np.clip(colours / 2 + 0.5, 0.0, 1.0).astype(np.float32)
        return shown


# By the scaling factor and the factor of sides of a VAE with four latents.
_PUBLIC: Mapping[tuple[float, int], LatentColours] = {
    (0.18215, 8): LatentColours(
        np.array(
            [
                [0.3512, 0.2297, 0.3227],
                [0.3250, 0.4974, 0.2350],
                [-0.2829, 0.1762, 0.2721],
                [-0.2120, -0.2616, -0.7177],
            ]
        ),
        np.zeros(3),
    ),
    (0.13025, 8): LatentColours(
        np.array(
            [
                [0.3651, 0.4232, 0.4341],
                [-0.2533, -0.0042, 0.1068],
                [0.1076, 0.1111, -0.0362],
                [-0.3165, -0.2492, -0.2188],
            ]
        ),
        np.array([0.1084, -0.0175, -0.0011]),
    ),
}


def latent_colours(
    vae: VaeSpec, latents: Floats, decode: Callable[[Floats], Floats]
) -> LatentColours:
    """The linear map of a VAE's latents to colours.

    Args:
        vae: Its structure, whose scaling tells a public one.
        latents: (N, C, h, w) that are to be shown: a map is fitted to the middle of the first.
        decode: Latents (1, C, h, w) to a picture (1, H, W, 3) in [0, 1]; called once, with a small
            picture, where the map has to be fitted.
    """
    public = _public(vae)
    return fit(vae, latents, decode) if public is None else public


def _public(vae: VaeSpec) -> LatentColours | None:
    known = _PUBLIC.get((vae.scaling_factor, vae.scale_factor))
    return known if vae.latent_channels == 4 else None


def is_fitted(request: Request, vae: VaeSpec) -> bool:
    """Whether previews of a run need the VAE, which a map of colours is fitted to."""
    return request.preview == "latent" and _public(vae) is None


def fit(vae: VaeSpec, latents: Floats, decode: Callable[[Floats], Floats]) -> LatentColours:
    """Fit a linear map by least squares to latents and the mean colours that they decode to.

    Among random latents, or those of the first step, the demo's decoder is not linear at all: a map
    fitted there gave 0.3 or less of correlation with the picture, one fitted here 0.94.
    """
    top, left = (max(side - FITTED, 0) // 2 for side in latents.shape[2:])
    part = latents[:1, :, top : top + FITTED, left : left + FITTED]
    _, channels, height, width = part.shape
    factor = vae.scale_factor
    picture = decode(part)[0].reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    inputs = part[0].reshape(channels, -1).T.astype(np.float64)
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    wanted = picture.reshape(-1, 3).astype(np.float64) * 2 - 1
    solution = np.linalg.lstsq(inputs, wanted, rcond=None)[0]
    return LatentColours(solution[:-1], solution[-1])


class Previews:
    """The previews of one run, made of its denoised estimates."""

    def __init__(self, backend: Backend, request: Request) -> None:
        """Raises RequestError where there is no tiny decoder for tiny previews."""
        self._backend, self._request = backend, request
        if request.preview == "tiny" and backend.preview_decoder is None:
            raise RequestError(
                'preview="tiny" needs a tiny decoder',
                found="none is loaded",
                remedy='load_preview_decoder("madebyollin/taesd"), or preview="latent"',
            )

    def picture(self, done: int, steps: int, estimate: Array) -> Image.Image | None:
        """The preview of a step, if it has one; all pictures of a batch side by side.

        Args:
            done: Steps that are finished.
            steps: Of the run; the last has a preview always.
            estimate: The backend's latents without noise.
        """
        kind, every = self._request.preview, self._request.preview_every
        if kind is None or (done % every and done != steps):
            return None
        pictures = _KINDS[kind](self, estimate)
        return to_pil(np.concatenate(list(pictures), axis=1)[None])[0]

    def latent(self, estimate: Array) -> Floats:
        """A linear preview: a pixel a latent, by the map of latents to colours."""
        latents = self._backend.to_numpy(estimate)
        return latent_colours(self._backend.model.vae, latents, self._decode).pictures(latents)

    def tiny(self, estimate: Array) -> Floats:
        """A preview by the tiny decoder."""
        decoder = self._backend.preview_decoder
        if decoder is None:
            raise RuntimeError("the tiny decoder was taken away")
        return decoder(estimate)

    def _decode(self, latents: Floats) -> Floats:
        return self._backend.decode(self._backend.from_numpy(latents))


_KINDS: Mapping[str, Callable[[Previews, Array], Floats]] = {
    "latent": Previews.latent,
    "tiny": Previews.tiny,
}
