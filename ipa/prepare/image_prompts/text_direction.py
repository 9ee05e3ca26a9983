"""A text that is subtracted from image embeddings: what is shown, less how it is shown.

Source: InstantStyle (arXiv 2404.02733, section 3.2; its ip_adapter.py), which subtracts SDXL's
pooled text embedding from the image embedding. That has a meaning where both lie in the joint space
of one CLIP: SDXL's second text encoder is the text tower of OpenCLIP ViT-bigG/14, whose image tower
the base adapter of SDXL takes. The unconditional half stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ipa.backend.protocol import Backend, LoadedAdapter
from ipa.backend.text import PLAIN, TextOptions
from ipa.errors import RequestError
from ipa.model.folder import ModelFolder
from ipa.prepare.text.prompts import cut_warning, learned_vectors
from ipa.prepare.text.tokenizer import ClipTokenizer
from ipa.request.embeds import ImageEmbeds
from ipa.request.image_prompt import ImagePrompt


@dataclass(frozen=True, slots=True)
class TextDirection:
    """A text to subtract, by a model's tokenizers (text encoders, 77), and how much of it."""

    ids: npt.NDArray[np.int32]
    scale: float
    dropped: str
    reading: TextOptions = PLAIN

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of words that did not fit."""
        return (cut_warning("neg_content_prompt", self.dropped),) if self.dropped else ()

    def taken_from(self, embeds: ImageEmbeds, backend: Backend) -> ImageEmbeds:
        """Embeddings of pictures less the text's own, times the scale."""
        pooled = backend.embed_text(self.ids, self.reading)
        less = embeds.conditional.astype(np.float64) - self.scale * pooled.astype(np.float64)
        return replace(embeds, conditional=less.astype(np.float32))


def plan_direction(
    prompt: ImagePrompt,
    adapter: str,
    loaded: LoadedAdapter,
    model: ModelFolder,
    tokenizers: Sequence[ClipTokenizer],
) -> TextDirection | None:
    """Plan the text that a prompt subtracts, checked; None without one.

    Raises:
        RequestError: Features of this adapter's encoder and texts of this model have no space in
            common.
    """
    text = prompt.neg_content_prompt
    if text is None:
        return None
    _check(adapter, loaded, model)
    if prompt.neg_content_scale == 0.0:
        return None
    tokens = [tokenizer.encode(text) for tokenizer in tokenizers]
    ids = np.stack([entry.ids for entry in tokens])
    reading = TextOptions(learned=learned_vectors(tokenizers))
    return TextDirection(ids, prompt.neg_content_scale, tokens[-1].dropped, reading)


def _check(adapter: str, loaded: LoadedAdapter, model: ModelFolder) -> None:
    encoder, second = loaded.encoder, model.text_encoder_2
    texts = None if second is None else second.projection
    kind = "hidden states" if loaded.spec.feature == "states" else "identities"
    given = f"{kind}, with which no text shares a space"
    if loaded.spec.feature == "embedding" and encoder is not None:
        if texts == encoder.projection:
            return
        given = f"the embedding of an encoder with projection_dim {encoder.projection}"
    raise RequestError(
        f"neg_content_prompt cannot be taken away from what adapter {adapter!r} is given",
        found=f"{given}; "
        f"{model.name} has {'no projected text' if texts is None else f'texts of width {texts}'}",
        remedy="it takes the embedding of an image encoder whose text tower the model has, such as "
        "SDXL with its base adapter (h94/IP-Adapter sdxl_models/ip-adapter_sdxl, ViT-bigG)",
    )
