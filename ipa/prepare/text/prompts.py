"""Prompts on their way to the text encoders: read, cut or split, and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ipa.backend.text import PLAIN, Sizes, TextOptions
from ipa.errors import CheckpointError, RequestError
from ipa.model.folder import ModelFolder
from ipa.prepare.guidance import is_guided
from ipa.request.profiles import Profile, profile_named
from ipa.request.request import SIZE_NAMES, Request

from .chunks import encode_prompt, evened, repeated
from .learned_words import TextualInversion
from .tokenizer import ClipTokenizer, Tokens

_INTERPOLATED = {"comfyui"}  # syntaxes; see `prompt_weights`


def plan_reading(
    texts: Sequence[Tokens],
    tokenizers: Sequence[ClipTokenizer],
    request: Request,
    *,
    negative: bool,
) -> tuple[TextOptions, tuple[TextualInversion, ...]]:
    """The text options of a row of guidance, and the learned words in its text."""
    weights, empty, skip = None, None, int(request.clip_skip or 0)
    if any(text.weights is not None for text in texts):
        weights = np.stack([_weights(text) for text in texts])
        if request.prompt_syntax in _INTERPOLATED:
            empty = np.stack([tokenizer.row([]) for tokenizer in tokenizers])
    reading = TextOptions(
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
    """Rows of guidance with equally many chunks.

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
    """The embeddings of learned words for each text encoder; () without any."""
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
    """The weights of words, (chunks, 77)."""
    shape = np.atleast_2d(text.ids).shape
    return np.ones(shape) if text.weights is None else text.weights.reshape(shape)


_SHOWN = 200  # characters of a text that did not fit


_SECOND_TEXTS = ("prompt_2", "negative_prompt_2")


_NO_CROP = (0, 0)


@dataclass(frozen=True, slots=True)
class PlannedText:
    """A row of guidance: its ids, weights and learned words, by text encoder.

    Attributes:
        tokens: The text by each text encoder's tokenizer; none: zeros stand for what they give.
        sizes: What SDXL is told beside it; None for other models.
        reading: How the text encoders read it.
        inversions: The learned words that a text may hold.
    """

    tokens: tuple[Tokens, ...]
    sizes: Sizes | None
    reading: TextOptions = PLAIN
    inversions: tuple[TextualInversion, ...] = ()

    @property
    def ids(self) -> npt.NDArray[np.int32]:
        """The ids, (text encoders, 77), or (text encoders, chunks, 77) of texts in chunks."""
        return np.stack([tokens.ids for tokens in self.tokens])


def open_tokenizers(model: ModelFolder) -> tuple[ClipTokenizer, ...]:
    """Open a tokenizer for each text encoder of a model.

    Raises:
        CheckpointError: One is missing or damaged, or they make texts of different lengths.
    """
    names = ("tokenizer", "tokenizer_2") if model.is_xl else ("tokenizer",)
    specs = (model.text_encoder, model.text_encoder_2)
    tokenizers = tuple(
        replace(
            ClipTokenizer.from_folder(model.path / name, model.vocabulary),
            embeddings=spec.vocabulary if spec else None,
        )
        for name, spec in zip(names, specs, strict=False)
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
    """Plan the rows of guidance: (negative, positive), or (positive,) without guidance.

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
    size_ids = [sizes]
    if is_guided(request, model):
        negative, second = request.negative_prompt or "", request.negative_prompt_2
        zeros = _is_zeros(request, model)
        rows.insert(0, () if zeros else _encode(tokenizers, request, negative, second))
        size_ids.insert(0, negative_sizes)
    even = even_rows(rows, tokenizers, profile_named(request.profile))
    evened = zip(even, size_ids, reversed(range(len(rows))), strict=True)
    return tuple(
        PlannedText(row, ids, *plan_reading(row, tokenizers, request, negative=place > 0))
        for row, ids, place in evened
    )


def text_warnings(texts: Sequence[PlannedText]) -> list[str]:
    """Warnings of what was cut from texts that are too long."""
    names = ("negative_prompt", "prompt") if len(texts) == 2 else ("prompt",)
    cut = {
        (name, tokens.dropped): f"{name}_2" if number else name
        for name, text in zip(names, texts, strict=True)
        for number, tokens in reversed(list(enumerate(text.tokens)))
        if tokens.dropped
    }
    return [cut_warning(name, dropped) for (_, dropped), name in cut.items()]


def cut_warning(name: str, dropped: str) -> str:
    """A warning of a text whose end did not fit."""
    rest = f" and {len(dropped) - _SHOWN} characters more" if len(dropped) > _SHOWN else ""
    return f"{name} is too long; this was cut: {dropped[:_SHOWN]!r}{rest}"


def _encode(
    tokenizers: Sequence[ClipTokenizer], request: Request, text: str, second: str | None
) -> tuple[Tokens, ...]:
    """Encode both texts; an empty second text is the first, as in diffusers."""
    rules = {"syntax": request.prompt_syntax, "long_prompts": request.long_prompts}
    pairs = zip(tokenizers, (text, second or text), strict=False)
    return tuple(encode_prompt(tokenizer, words, **rules) for tokenizer, words in pairs)


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
