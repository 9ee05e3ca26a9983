"""What an IP-Adapter file is, told from the shapes of its tensors and never from its name.

Names are those of the original repository (tencent-ailab/IP-Adapter); the order of the tests is
that of diffusers' `_convert_ip_adapter_image_proj_to_diffusers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ipa.errors import CheckpointError

from .adapter import FACE_WIDTH, HEAD_WIDTH, AdapterSpec, Shapes

_PROJECTOR, _SITES = "image_proj.", "ip_adapter."
_PERCEIVER = "perceiver_resampler."
_LORA = re.compile(r"ip_adapter\.[0-9]+\.to_q_lora\.down\.weight")
_SUPPORTED = (
    "supported: base, light, vit-G; plus, plus-face, composition; full-face; FaceID, FaceID-Plus, "
    "FaceID-Portrait"
)
# Kolors' adapters have the names of SDXL's; these widths are theirs alone.
_KOLORS_STATES, _KOLORS_LATENTS, _KOLORS_FACE = 1024, 2048, 4096
_SDXL_CONTEXT = 2048


def detect_adapter(shapes: Shapes, where: str) -> AdapterSpec:
    """Detect the variant from `image_proj.*` and `ip_adapter.*` keys.

    Args:
        shapes: Of all tensors of a file, by their original names.
        where: The file, for messages.

    Raises:
        CheckpointError: The file is no IP-Adapter, or of a kind that is not implemented.
    """
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if empty:
        raise CheckpointError(
            f"{where} is not an IP-Adapter file",
            found=f"{empty[0]} without any values",
            remedy="download it again",
        )
    projector = {
        k.removeprefix(_PROJECTOR): s for k, s in shapes.items() if k.startswith(_PROJECTOR)
    }
    keys = [k for k in shapes if k.startswith(_SITES)]
    if not projector or not keys:
        raise CheckpointError(
            f"{where} is not an IP-Adapter file",
            found=f"tensors such as {', '.join(sorted(shapes)[:3]) or 'none'}",
            remedy="both image_proj.* and ip_adapter.* tensors are needed",
        )
    key_value = [shapes[k] for k in keys if k.endswith((".to_k_ip.weight", ".to_v_ip.weight"))]
    widths = {s[1] for s in key_value if len(s) == 2}
    if len(widths) != 1:
        raise CheckpointError(
            f"{where}: to_k_ip and to_v_ip must share one context width",
            found=str(sorted(widths)),
        )
    for marks, read in _PROJECTORS.items():
        if projector.keys() >= set(marks):
            return read(projector, shapes, widths.pop(), where)
    raise _unsupported(where, f"image_proj tensors {', '.join(sorted(projector)[:4])}")


def _linear(shapes: Shapes, _: Shapes, context_width: int, where: str) -> AdapterSpec:
    rows, feature_width = _matrix(shapes, "proj.weight", where)
    return AdapterSpec(
        projector="linear",
        feature="embedding",
        feature_width=feature_width,
        tokens=_tokens(rows, "proj", context_width, where),
        context_width=context_width,
    )


def _mlp(shapes: Shapes, _: Shapes, context_width: int, where: str) -> AdapterSpec:
    width, feature_width = _matrix(shapes, "proj.0.weight", where)
    return AdapterSpec(
        projector="mlp",
        feature="states",
        feature_width=feature_width,
        tokens=0,
        context_width=context_width,
        width=width,
    )


def _faceid(shapes: Shapes, file: Shapes, context_width: int, where: str) -> AdapterSpec:
    """Detect FaceID, and without its LoRA FaceID-Portrait."""
    width, face_width = _matrix(shapes, "proj.0.weight", where)
    rows, _ = _matrix(shapes, "proj.2.weight", where)
    return AdapterSpec(
        projector="faceid",
        feature="face",
        feature_width=face_width,
        tokens=_tokens(rows, "proj.2", context_width, where),
        context_width=context_width,
        width=width,
        face_width=face_width,
        lora_rank=_lora_rank(file),
    )


def _faceid_plus(shapes: Shapes, file: Shapes, context_width: int, where: str) -> AdapterSpec:
    """Detect FaceID-Plus; its two versions differ in no shape."""
    width, feature_width = _matrix(shapes, f"{_PERCEIVER}proj_in.weight", where)
    if _KOLORS_FACE in shapes.get("norm.weight", ()) or _is_kolors(context_width, feature_width):
        raise _kolors(where, "IP-Adapter-FaceID-Plus", feature_width, width)
    rows, _ = _matrix(shapes, "proj.2.weight", where)
    return AdapterSpec(
        projector="faceid_plus",
        feature="states",
        feature_width=feature_width,
        tokens=_tokens(rows, "proj.2", context_width, where),
        context_width=context_width,
        width=width,
        layers=_layers(shapes, f"{_PERCEIVER}layers."),
        heads=_heads(shapes, f"{_PERCEIVER}layers.0.0.to_q.weight", where),
        face_width=_matrix(shapes, "proj.0.weight", where)[1],
        lora_rank=_lora_rank(file),
    )


def _resampler(shapes: Shapes, _: Shapes, context_width: int, where: str) -> AdapterSpec:
    latents = shapes["latents"]
    if len(latents) != 3:
        raise CheckpointError(f"{where}: image_proj.latents must be (1, T, C)", found=str(latents))
    feature_width = _matrix(shapes, "proj_in.weight", where)[1]
    is_wide = context_width == _SDXL_CONTEXT and latents[2] == _KOLORS_LATENTS
    if is_wide or _is_kolors(context_width, feature_width):
        raise _kolors(where, "IP-Adapter-Plus", feature_width, latents[2])
    takes_face = feature_width == FACE_WIDTH  # no image encoder of that width is in use
    return AdapterSpec(
        projector="resampler",
        feature="face" if takes_face else "states",
        feature_width=feature_width,
        tokens=latents[1],
        context_width=context_width,
        width=latents[2],
        layers=_layers(shapes, "layers."),
        heads=_heads(shapes, "layers.0.0.to_q.weight", where),
        face_width=feature_width if takes_face else 0,
    )


# Tensors that only this kind of projector has (after those above it), and how to read the rest.
_PROJECTORS: Mapping[tuple[str, ...], Callable[[Shapes, Shapes, int, str], AdapterSpec]] = {
    ("proj.weight",): _linear,
    ("proj.3.weight",): _mlp,
    (f"{_PERCEIVER}proj_in.weight",): _faceid_plus,
    ("proj.0.weight", "norm.weight"): _faceid,
    ("latents",): _resampler,
}


def _matrix(shapes: Shapes, key: str, where: str) -> tuple[int, int]:
    shape = shapes.get(key, ())
    if len(shape) != 2:
        raise CheckpointError(
            f"{where}: image_proj.{key} must be a matrix",
            found=f"shape {shape}" if key in shapes else "no such tensor",
        )
    return shape[0], shape[1]


def _tokens(rows: int, path: str, context_width: int, where: str) -> int:
    if rows % context_width:
        raise CheckpointError(
            f"{where}: image_proj.{path}.weight has {rows} rows",
            found=f"no multiple of the context width {context_width}",
        )
    return rows // context_width


def _layers(shapes: Shapes, prefix: str) -> int:
    return len({k.removeprefix(prefix).split(".")[0] for k in shapes if k.startswith(prefix)})


def _heads(shapes: Shapes, key: str, where: str) -> int:
    rows, _ = _matrix(shapes, key, where)
    if rows % HEAD_WIDTH:
        raise CheckpointError(
            f"{where}: image_proj.{key} has {rows} rows",
            found=f"no multiple of the width of a head, {HEAD_WIDTH}",
        )
    return rows // HEAD_WIDTH


def _lora_rank(file: Shapes) -> int:
    """The rank of a LoRA by its first pair; the table demands the same of all others."""
    found = (shape[0] for key, shape in file.items() if _LORA.fullmatch(key) and len(shape) == 2)
    return next(found, 0)


def _is_kolors(context_width: int, feature_width: int) -> bool:
    return context_width == _SDXL_CONTEXT and feature_width == _KOLORS_STATES


def _kolors(where: str, name: str, feature_width: int, width: int) -> CheckpointError:
    return _unsupported(
        where, f"Kolors' {name} (image states of width {feature_width}, inner width {width})"
    )


def _unsupported(where: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: this kind of IP-Adapter is not supported", found=found, remedy=_SUPPORTED
    )
