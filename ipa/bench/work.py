"""The arithmetic of a case, and the bytes of its weights: what its time and memory are held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from ipa.model.folder import ModelFolder
from ipa_convert.tables import clip_text, unet, vae
from ipa_convert.tables.layout import Tensor

from . import arithmetic, public
from .cases import Case

_BYTES = {"float32": 4, "float64": 8}


def operations(case: Case) -> int:
    """The operations of a case, counted from shapes; two for each multiply-add."""
    return _OPERATIONS[case.stage](case, public.structure(case.base, case.model))


def weights(case: Case, dtype: str) -> int:
    """Bytes of the networks that a case needs, without image encoder and adapters."""
    model = public.structure(case.base, case.model)
    tables: Mapping[str, Callable[[], Iterator[Tensor]]] = {
        "unet": lambda: unet.tensors(model.unet),
        "vae": lambda: vae.tensors(model.vae),
        "text_encoder": lambda: clip_text.tensors(model.text_encoder),
    }
    count = sum(math.prod(t.shape) for part in parts(case) for t in tables[part]())
    if "text_encoder" in parts(case) and model.text_encoder_2 is not None:
        count += sum(math.prod(t.shape) for t in clip_text.tensors(model.text_encoder_2))
    return count * _BYTES.get(dtype, 2)


def parts(case: Case) -> tuple[str, ...]:
    """The networks that a case needs of a model."""
    return _PARTS[case.stage]


def _latents(case: Case, model: ModelFolder) -> tuple[int, int]:
    factor = model.vae.scale_factor
    return case.height // factor, case.width // factor


def _tokens(case: Case) -> list[int]:
    return [public.TOKENS[case.adapter]] * case.adapters


def _step(case: Case, model: ModelFolder) -> int:
    rows = 2 * case.batch
    return arithmetic.step(model.unet, _latents(case, model), rows, _tokens(case))


def _condition(case: Case, model: ModelFolder) -> int:
    pairs = arithmetic.condition(model.unet, 2, [arithmetic.TOKENS, *_tokens(case)])
    states = public.image_encoder(case.adapter, model).tokens
    projected = arithmetic.projector(public.adapter(case.adapter, model), states)
    return pairs + 2 * case.adapters * projected


def _image(case: Case, model: ModelFolder) -> int:
    spec, seen = public.adapter(case.adapter, model), public.image_encoder(case.adapter, model)
    return arithmetic.image(spec, seen, case.batch)


def _generation(case: Case, model: ModelFolder) -> int:
    pictures = _image(case, model) // case.batch * case.adapters
    prepared = 2 * arithmetic.text(model) + pictures + _condition(case, model)
    return prepared + case.steps * _step(case, model) + _decode(case, model)


def _decode(case: Case, model: ModelFolder) -> int:
    return case.batch * arithmetic.decode(model.vae, _latents(case, model))


def _encode(case: Case, model: ModelFolder) -> int:
    return case.batch * arithmetic.encode(model.vae, _latents(case, model))


_OPERATIONS: Mapping[str, Callable[[Case, ModelFolder], int]] = {
    "text": lambda case, model: arithmetic.text(model),
    "image": _image,
    "condition": _condition,
    "step": _step,
    "decode": _decode,
    "encode": _encode,
    "generation": _generation,
}
_PARTS: Mapping[str, tuple[str, ...]] = {
    "text": ("text_encoder",),
    "image": (),
    "condition": ("unet",),
    "step": ("unet",),
    "decode": ("vae",),
    "encode": ("vae",),
    "generation": ("unet", "vae", "text_encoder"),
}
