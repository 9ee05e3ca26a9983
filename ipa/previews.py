"""Small pictures of what is being made, while it is made: `Progress.preview`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from ipa.contract.backend import Array, Backend, Floats
from ipa.contract.errors import RequestError
from ipa.contract.request import Request
from ipa.prepare.images import to_pil
from ipa.prepare.latent_colours import latent_colours


class Previews:
    """The pictures of one run: of the denoised estimates, which it never changes."""

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
        """That of a step, if it is one of those; all pictures of a batch side by side.

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
        """A pixel a latent, its colour a linear map of the latent."""
        latents = self._backend.to_numpy(estimate)
        return latent_colours(self._backend.model.vae, latents, self._decode).pictures(latents)

    def tiny(self, estimate: Array) -> Floats:
        """What the tiny decoder makes of them."""
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
