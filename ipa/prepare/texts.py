"""The texts and sizes of a request, as the model at hand takes them.

Source: diffusers' StableDiffusionXLPipeline.encode_prompt and __call__. Where it passes over an
argument in silence, the argument is refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ipa.contract.errors import CheckpointError, RequestError
from ipa.contract.model import ModelFolder
from ipa.contract.request import SIZE_NAMES, Request
from ipa.contract.text import PLAIN, Reading, Sizes
from ipa.contract.textual_inversion import TextualInversion

from .guidance import is_guided
from .profiles import profile_named
from .prompt_chunks import encode_prompt
from .prompt_reading import check_clip_skip, even_rows, plan_reading
from .tokenizer import ClipTokenizer
from .tokens import Tokens

_SHOWN = 200  # characters of a text that did not fit
_SECOND_TEXTS = ("prompt_2", "negative_prompt_2")
_NO_CROP = (0, 0)


@dataclass(frozen=True, slots=True)
class PlannedText:
    """One row of guidance.

    Attributes:
        tokens: The text by each text encoder's tokenizer; none: zeros stand for what they give.
        sizes: What SDXL is told beside it; None for other models.
        reading: How the text encoders read it.
        inversions: The learned words that a text may hold.
    """

    tokens: tuple[Tokens, ...]
    sizes: Sizes | None
    reading: Reading = PLAIN
    inversions: tuple[TextualInversion, ...] = ()

    @property
    def ids(self) -> npt.NDArray[np.int32]:
        """(text encoders, 77), or (text encoders, chunks, 77) of texts in chunks."""
        return np.stack([tokens.ids for tokens in self.tokens])


def open_tokenizers(model: ModelFolder) -> tuple[ClipTokenizer, ...]:
    """A tokenizer for each text encoder of a model.

    Raises:
        CheckpointError: One is missing or damaged, or they make texts of different lengths.
    """
    names = ("tokenizer", "tokenizer_2") if model.is_xl else ("tokenizer",)
    tokenizers = tuple(
        ClipTokenizer.from_folder(model.path / name, model.vocabulary) for name in names
    )
    lengths = [tokenizer.length for tokenizer in tokenizers]
    if len(set(lengths)) > 1:
        raise CheckpointError(
            f"{model.name}: the tokenizers do not fit each other",
            found=f"model_max_length {lengths[0]} and {lengths[1]}",
            remedy="take both from one model",
        )
    return tokenizers


def plan_texts(
    request: Request,
    model: ModelFolder,
    tokenizers: Sequence[ClipTokenizer],
    size: tuple[int, int],
) -> tuple[PlannedText, ...]:
    """The rows of guidance: (negative, positive), or (positive,) without guidance.

    Args:
        request: The request.
        model: The model.
        tokenizers: One for each of its text encoders.
        size: Height and width of the pictures.

    Raises:
        RequestError: The model takes no such text or number, or one would be without effect.
    """
    _check(request, model)
    check_clip_skip(request.clip_skip, model)
    sizes = negative_sizes = None
    if model.is_xl:
        sizes = _sizes(request, size)
        negative_sizes = _negative_sizes(request) or sizes
    rows = [_encode(tokenizers, request, request.prompt, request.prompt_2)]
    told = [sizes]
    if is_guided(request, model):
        negative, second = request.negative_prompt or "", request.negative_prompt_2
        zeros = _is_zeros(request, model)
        rows.insert(0, () if zeros else _encode(tokenizers, request, negative, second))
        told.insert(0, negative_sizes)
    even = even_rows(rows, tokenizers, profile_named(request.profile))
    evened = zip(even, told, reversed(range(len(rows))), strict=True)
    return tuple(
        PlannedText(row, own, *plan_reading(row, tokenizers, request, negative=place > 0))
        for row, own, place in evened
    )


def text_warnings(texts: Sequence[PlannedText]) -> list[str]:
    """What was cut from texts that are too long, each told once."""
    names = ("negative_prompt", "prompt") if len(texts) == 2 else ("prompt",)
    cut = {
        (name, tokens.dropped): f"{name}_2" if number else name
        for name, text in zip(names, texts, strict=True)
        for number, tokens in reversed(list(enumerate(text.tokens)))
        if tokens.dropped
    }
    return [cut_warning(name, dropped) for (_, dropped), name in cut.items()]


def cut_warning(name: str, dropped: str) -> str:
    """What to say of a text of which the end did not fit."""
    rest = f" and {len(dropped) - _SHOWN} characters more" if len(dropped) > _SHOWN else ""
    return f"{name} is too long; this was cut: {dropped[:_SHOWN]!r}{rest}"


def _encode(
    tokenizers: Sequence[ClipTokenizer], request: Request, text: str, second: str | None
) -> tuple[Tokens, ...]:
    """An empty second text is the first, as in diffusers."""
    rules = {"syntax": request.prompt_syntax, "long_prompts": request.long_prompts}
    pairs = zip(tokenizers, (text, second or text), strict=False)
    return tuple(encode_prompt(tokenizer, own, **rules) for tokenizer, own in pairs)


def _is_zeros(request: Request, model: ModelFolder) -> bool:
    return model.force_zeros_for_empty_prompt and request.negative_prompt is None


def _sizes(request: Request, size: tuple[int, int]) -> Sizes:
    return Sizes(
        original_size=request.original_size or size,
        crops_coords_top_left=request.crops_coords_top_left or _NO_CROP,
        target_size=request.target_size or size,
    )


def _negative_sizes(request: Request) -> Sizes | None:
    if request.negative_original_size is None or request.negative_target_size is None:
        return None
    return Sizes(
        original_size=request.negative_original_size,
        crops_coords_top_left=request.negative_crops_coords_top_left or _NO_CROP,
        target_size=request.negative_target_size,
    )


def _check(request: Request, model: ModelFolder) -> None:
    given = [n for n in (*_SECOND_TEXTS, *SIZE_NAMES) if getattr(request, n) is not None]
    if given and not model.is_xl:
        raise RequestError(
            f"{model.name} takes no {', '.join(given)}",
            found="a model with one text encoder",
            remedy="these arguments are for SDXL",
        )
    if request.negative_prompt_2 is not None and _is_zeros(request, model):
        raise RequestError(
            "negative_prompt_2 has no effect without negative_prompt",
            found="negative_prompt is None, for which this model takes zeros",
            remedy='pass negative_prompt="" beside it',
        )
    if any(name.startswith("negative") for name in given if name in SIZE_NAMES) and (
        _negative_sizes(request) is None
    ):
        raise RequestError(
            "negative sizes have no effect without both negative_original_size and "
            "negative_target_size",
            found=", ".join(given),
            remedy="pass both, or none",
        )
