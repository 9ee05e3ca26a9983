"""IP-Adapter files in the naming of the original repository (tencent-ailab/IP-Adapter)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ipa.contract.adapter import HEAD_WIDTH, AdapterSpec, Projector
from ipa.contract.errors import CheckpointError
from ipa.contract.sites import Site

from .checkpoint import Checkpoint
from .layout import Tensor
from .modules import linear, norm
from .rules import Drop, Rename, rename
from .table import Table

TITLE = "IP-Adapter"

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
        Rename("image_proj.proj_in.*", "projector.proj_in.*"),
        Rename("image_proj.proj_out.*", "projector.proj_out.*"),
        Rename("image_proj.norm_out.*", "projector.norm_out.*"),
        Rename("image_proj.layers.#.0.norm1.*", "projector.layers.#.norm_states.*"),
        Rename("image_proj.layers.#.0.norm2.*", "projector.layers.#.norm_latents.*"),
        Rename("image_proj.layers.#.0.*.weight", "projector.layers.#.*.weight"),
        Rename("image_proj.layers.#.1.0.*", "projector.layers.#.norm_ff.*"),
        Rename("image_proj.layers.#.1.1.weight", "projector.layers.#.proj_in.weight"),
        Rename("image_proj.layers.#.1.3.weight", "projector.layers.#.proj_out.weight"),
    ),
}

# The original training scripts' own checkpoints (tutorial_train.py).
ALIASES = (
    Rename("image_proj_model.**", "image_proj.**"),
    Rename("adapter_modules.**", "ip_adapter.**"),
)

DROPS = (
    Drop("unet.**", "the frozen base model, which a training checkpoint repeats"),
    Drop("image_encoder.**", "the frozen image encoder, which a training checkpoint repeats"),
)


def detect(checkpoint: Checkpoint) -> AdapterSpec:
    """What adapter a file holds, from its shapes.

    Raises:
        CheckpointError: None, or one of a kind that is not supported.
    """
    shapes = canonical_shapes(checkpoint)
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if empty:
        raise CheckpointError(
            f"{checkpoint.where} is not an IP-Adapter file",
            found=f"{empty[0]} without any values",
            remedy="download it again",
        )
    return AdapterSpec.from_shapes(shapes, checkpoint.where)


def canonical_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shapes of a file's tensors by their original names."""
    return {rename(name, ALIASES): tensor.shape for name, tensor in checkpoint.items()}


def table(spec: AdapterSpec, sites: tuple[Site, ...]) -> Table:
    """The table of an adapter for a UNet with these sites."""
    return Table(
        title=TITLE,
        tensors=tuple(tensors(spec, sites)),
        renames=RENAMES[spec.projector] + tuple(_site_renames(sites)),
        aliases=ALIASES,
        drops=DROPS,
    )


def tensors(spec: AdapterSpec, sites: tuple[Site, ...]) -> Iterator[Tensor]:
    """Every tensor, as the original repository names it."""
    yield from _PROJECTORS[spec.projector](spec)
    for site in sites:
        for part in ("to_k_ip", "to_v_ip"):
            path = f"ip_adapter.{site.number}.{part}"
            yield from linear(path, spec.context_width, site.width, bias=False)


def _site_renames(sites: tuple[Site, ...]) -> Iterator[Rename]:
    """By number: many sites share one shape, so that no check would notice a wrong order."""
    for site in sites:
        for part in ("to_k", "to_v"):
            source = f"ip_adapter.{site.number}.{part}_ip.weight"
            yield Rename(source, f"sites.{site.path}.{part}.weight")


def _linear(spec: AdapterSpec) -> Iterator[Tensor]:
    """`ImageProjModel`."""
    yield from linear("image_proj.proj", spec.feature_width, spec.tokens * spec.context_width)
    yield from norm("image_proj.norm", spec.context_width)


def _mlp(spec: AdapterSpec) -> Iterator[Tensor]:
    """`MLPProjModel`."""
    yield from linear("image_proj.proj.0", spec.feature_width, spec.width)
    yield from linear("image_proj.proj.2", spec.width, spec.context_width)
    yield from norm("image_proj.proj.3", spec.context_width)


def _resampler(spec: AdapterSpec) -> Iterator[Tensor]:
    """`Resampler` (ip_adapter/resampler.py); the feed-forward is four times as wide."""
    width, inner = spec.width, spec.heads * HEAD_WIDTH
    yield Tensor("image_proj.latents", (1, spec.tokens, width))
    yield from linear("image_proj.proj_in", spec.feature_width, width)
    yield from linear("image_proj.proj_out", width, spec.context_width)
    yield from norm("image_proj.norm_out", spec.context_width)
    for number in range(spec.layers):
        path = f"image_proj.layers.{number}"
        yield from norm(f"{path}.0.norm1", width)
        yield from norm(f"{path}.0.norm2", width)
        yield from linear(f"{path}.0.to_q", width, inner, bias=False)
        yield from linear(f"{path}.0.to_kv", width, 2 * inner, bias=False)
        yield from linear(f"{path}.0.to_out", inner, width, bias=False)
        yield from norm(f"{path}.1.0", width)
        yield from linear(f"{path}.1.1", width, 4 * width, bias=False)
        yield from linear(f"{path}.1.3", 4 * width, width, bias=False)


_PROJECTORS: Mapping[Projector, Callable[[AdapterSpec], Iterator[Tensor]]] = {
    "linear": _linear,
    "mlp": _mlp,
    "resampler": _resampler,
}
