"""The projectors of IP-Adapters: their tensors in the original repository, and in MLX.

Sources: ip_adapter/ip_adapter.py, resampler.py, ip_adapter_faceid.py, ip_adapter_faceid_separate.py
of tencent-ailab/IP-Adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ipa.model.adapter import HEAD_WIDTH, AdapterSpec, Projector

from .layout import Tensor
from .modules import linear, norm
from .rules import Rename

_PERCEIVER = "image_proj.perceiver_resampler"


def projector_tensors(spec: AdapterSpec) -> Iterator[Tensor]:
    """Every tensor of `image_proj`, as the original repository names it."""
    return _TENSORS[spec.projector](spec)


def _linear(spec: AdapterSpec) -> Iterator[Tensor]:
    """Tensors of `ImageProjModel`."""
    yield from linear("image_proj.proj", spec.feature_width, spec.tokens * spec.context_width)
    yield from norm("image_proj.norm", spec.context_width)


def _mlp(spec: AdapterSpec) -> Iterator[Tensor]:
    """Tensors of `MLPProjModel` of ip_adapter.py."""
    yield from linear("image_proj.proj.0", spec.feature_width, spec.width)
    yield from linear("image_proj.proj.2", spec.width, spec.context_width)
    yield from norm("image_proj.proj.3", spec.context_width)


def _faceid(spec: AdapterSpec) -> Iterator[Tensor]:
    """Tensors of `MLPProjModel` of ip_adapter_faceid.py: one vector makes all tokens."""
    return _face_tokens(spec, spec.width)


def _faceid_plus(spec: AdapterSpec) -> Iterator[Tensor]:
    """Tensors of `ProjPlusModel`: the face's tokens are a resampler's latents over the states."""
    yield from _face_tokens(spec, 2 * spec.face_width)
    yield from _resampler_tensors(_PERCEIVER, spec)


def _resampler(spec: AdapterSpec) -> Iterator[Tensor]:
    """Tensors of `Resampler`, with latents of its own."""
    yield Tensor("image_proj.latents", (1, spec.tokens, spec.width))
    yield from _resampler_tensors("image_proj", spec)


def _face_tokens(spec: AdapterSpec, width: int) -> Iterator[Tensor]:
    yield from linear("image_proj.proj.0", spec.face_width, width)
    yield from linear("image_proj.proj.2", width, spec.tokens * spec.context_width)
    yield from norm("image_proj.norm", spec.context_width)


def _resampler_tensors(root: str, spec: AdapterSpec) -> Iterator[Tensor]:
    """Tensors that `Resampler` and `FacePerceiverResampler` share; feed-forward 4 times as wide."""
    width, inner = spec.width, spec.heads * HEAD_WIDTH
    yield from linear(f"{root}.proj_in", spec.feature_width, width)
    yield from linear(f"{root}.proj_out", width, spec.context_width)
    yield from norm(f"{root}.norm_out", spec.context_width)
    for number in range(spec.layers):
        path = f"{root}.layers.{number}"
        yield from norm(f"{path}.0.norm1", width)
        yield from norm(f"{path}.0.norm2", width)
        yield from linear(f"{path}.0.to_q", width, inner, bias=False)
        yield from linear(f"{path}.0.to_kv", width, 2 * inner, bias=False)
        yield from linear(f"{path}.0.to_out", inner, width, bias=False)
        yield from norm(f"{path}.1.0", width)
        yield from linear(f"{path}.1.1", width, 4 * width, bias=False)
        yield from linear(f"{path}.1.3", 4 * width, width, bias=False)


_TENSORS: Mapping[Projector, Callable[[AdapterSpec], Iterator[Tensor]]] = {
    "linear": _linear,
    "mlp": _mlp,
    "resampler": _resampler,
    "faceid": _faceid,
    "faceid_plus": _faceid_plus,
}


def _resampler_renames(source: str, target: str) -> tuple[Rename, ...]:
    return (
        Rename(f"{source}.proj_in.*", f"{target}.proj_in.*"),
        Rename(f"{source}.proj_out.*", f"{target}.proj_out.*"),
        Rename(f"{source}.norm_out.*", f"{target}.norm_out.*"),
        Rename(f"{source}.layers.#.0.norm1.*", f"{target}.layers.#.norm_states.*"),
        Rename(f"{source}.layers.#.0.norm2.*", f"{target}.layers.#.norm_latents.*"),
        Rename(f"{source}.layers.#.0.*.weight", f"{target}.layers.#.*.weight"),
        Rename(f"{source}.layers.#.1.0.*", f"{target}.layers.#.norm_ff.*"),
        Rename(f"{source}.layers.#.1.1.weight", f"{target}.layers.#.proj_in.weight"),
        Rename(f"{source}.layers.#.1.3.weight", f"{target}.layers.#.proj_out.weight"),
    )


def _face_renames(target: str) -> tuple[Rename, ...]:
    return (
        Rename("image_proj.proj.0.*", f"{target}.proj_in.*"),
        Rename("image_proj.proj.2.*", f"{target}.proj_out.*"),
        Rename("image_proj.norm.*", f"{target}.norm.*"),
    )


RENAMES: Mapping[Projector, tuple[Rename, ...]] = {
    "linear": (
        Rename("image_proj.proj.*", "projector.proj.*"),
        Rename("image_proj.norm.*", "projector.norm.*"),
    ),
    "mlp": (
        Rename("image_proj.proj.0.*", "projector.proj_in.*"),
        Rename("image_proj.proj.2.*", "projector.proj_out.*"),
        Rename("image_proj.proj.3.*", "projector.norm.*"),
    ),
    "resampler": (
        Rename("image_proj.latents", "projector.latents"),
        *_resampler_renames("image_proj", "projector"),
    ),
    "faceid": _face_renames("projector"),
    "faceid_plus": (
        *_face_renames("projector.face"),
        *_resampler_renames(_PERCEIVER, "projector.resampler"),
    ),
}
"""Renames from the original names to those in MLX."""
