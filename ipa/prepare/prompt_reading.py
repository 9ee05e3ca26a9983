"""How the texts of a request are read, all of it decided before a text encoder runs.

clip_skip leaves the negative prompt as it is, as in diffusers' pipelines for Stable Diffusion and
SDXL; under ComfyUI's profiles it holds for both, as in ComfyUI (and A1111), where it is a setting
of the text encoder (D30 of `profiles`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ipa.contract.errors import RequestError
from ipa.contract.model import ModelFolder
from ipa.contract.request import Request
from ipa.contract.text import Reading
from ipa.contract.textual_inversion import TextualInversion

from .profiles import Profile, profile_named
from .prompt_chunks import evened, repeated
from .tokenizer import ClipTokenizer
from .tokens import Tokens

_INTERPOLATED = {"comfyui"}  # syntaxes; see `prompt_weights`


def plan_reading(
    texts: Sequence[Tokens],
    tokenizers: Sequence[ClipTokenizer],
    request: Request,
    *,
    negative: bool,
) -> tuple[Reading, tuple[TextualInversion, ...]]:
    """How a row of guidance is read, its text by each encoder; and the words that are learned."""
    weights, empty, skip = None, None, int(request.clip_skip or 0)
    if any(text.weights is not None for text in texts):
        weights = np.stack([_weights(text) for text in texts])
        if request.prompt_syntax in _INTERPOLATED:
            empty = np.stack([tokenizer.row([]) for tokenizer in tokenizers])
    reading = Reading(
        clip_skip=0 if negative and profile_named(request.profile).clip_skip == "prompt" else skip,
        weights=weights,
        empty=empty,
        learned=learned_vectors(tokenizers),
    )
    words = tokenizers[0].learned
    return reading, () if words is None else words.inversions


def even_rows(
    rows: Sequence[tuple[Tokens, ...]], tokenizers: Sequence[ClipTokenizer], profile: Profile
) -> list[tuple[Tokens, ...]]:
    """The rows of guidance with as many chunks in each.

    That is as many as the longest text has; or, where rows are repeated, the least that all of them
    can be repeated to. Within a row, the texts of two encoders are evened by chunks of no words.
    """
    if profile.uneven_texts == "repeated":
        return repeated([evened(row, tokenizers[: len(row)]) for row in rows])
    flat = [text for row in rows for text in row]
    same = [tokenizer for row in rows for _, tokenizer in zip(row, tokenizers, strict=False)]
    padded = iter(evened(flat, same))
    return [tuple(next(padded) for _ in row) for row in rows]


def learned_vectors(
    tokenizers: Sequence[ClipTokenizer],
) -> tuple[npt.NDArray[np.float32], ...]:
    """For each text encoder the embeddings of learned words; () without any."""
    return tuple(t.learned.vectors for t in tokenizers if t.learned is not None)


def check_clip_skip(clip_skip: int | None, model: ModelFolder) -> None:
    """Raise RequestError if a text encoder has fewer layers than are to be left out."""
    specs = [model.text_encoder] + ([model.text_encoder_2] if model.text_encoder_2 else [])
    # SDXL takes the layer before the last, which is one less to leave out.
    most = min(spec.layers for spec in specs) - (len(specs) - 1)
    if clip_skip is not None and clip_skip > most:
        raise RequestError(
            f"clip_skip leaves out more layers than {model.name} has",
            found=str(clip_skip),
            remedy=f"at most {most}; 1 takes the layer before that which the model takes",
        )


def _weights(text: Tokens) -> npt.NDArray[np.float64]:
    """(chunks, 77)."""
    shape = np.atleast_2d(text.ids).shape
    return np.ones(shape) if text.weights is None else text.weights.reshape(shape)
