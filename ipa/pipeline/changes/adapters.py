"""IP-Adapters beside a model: loaded, weighted, forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack, overload

from ipa.checks import check_callback, checked
from ipa.request.result import OnProgress
from ipa.request.scales import Scale
from ipa.request.watched import watching
from ipa.sources.adapters import resolve_adapter
from ipa.sources.hub import hub_only
from ipa.watching import CancelSignal

from ..adapter_lists import LoadOptions, wanted_adapters
from ..loaded import Loaded


@overload
def load_ip_adapter(
    loaded: Loaded,
    source: str | Path,
    *,
    weight_name: str | None = None,
    subfolder: str = "",
    name: str | None = None,
    scale: Scale = 1.0,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
    **options: Unpack[LoadOptions],
) -> str: ...


@overload
def load_ip_adapter(
    loaded: Loaded,
    source: list[str | Path],
    *,
    weight_name: str | list[str] | None = None,
    subfolder: str | list[str] = "",
    name: list[str] | None = None,
    scale: Scale | list[Scale] = 1.0,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
    **options: Unpack[LoadOptions],
) -> list[str]: ...


@overload
def load_ip_adapter(
    loaded: Loaded,
    source: str | Path,
    *,
    weight_name: list[str],
    subfolder: str | list[str] = "",
    name: list[str] | None = None,
    scale: Scale | list[Scale] = 1.0,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
    **options: Unpack[LoadOptions],
) -> list[str]: ...


@checked
def load_ip_adapter(
    loaded: Loaded,
    source: str | Path | Sequence[str | Path],
    *,
    weight_name: str | Sequence[str] | None = None,
    subfolder: str | Sequence[str] = "",
    name: str | Sequence[str] | None = None,
    scale: Scale | Sequence[Scale] = 1.0,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
    **options: Unpack[LoadOptions],
) -> str | list[str]:
    """Load an IP-Adapter beside those already loaded; see `ipa.sources.models`.

    Several at once as in diffusers: where `source`, `subfolder`, `weight_name`, `name` or
    `scale` are lists, each has one entry for all adapters, or one for each. All or nothing.

    Args:
        source: A .safetensors or .bin file, a folder, a name on the hub (owner/name with
            `weight_name`, or owner/name/folder/file), or the short name of a public adapter
            (`ipa.sources.catalogue`).
        weight_name: File inside the folder or repository.
        subfolder: Folder of the file inside it.
        name: What image prompts call it; by default the short name, or the file's stem.
        scale: λ where an image prompt gives none.
        on_progress, cancel: As for `ipa.load`.
        **options: revision and offline. `image_encoder_folder`: where its image encoder lies, a
            folder or a file such as ComfyUI's clip_vision/NAME.safetensors: beside the adapter,
            or else in the current folder; by default "image_encoder". Where none is named, one
            that fits in ../clip_vision is taken if there is none beside the adapter nor in the
            model. None takes the model's own. `ignore`: as for `load_controlnet`, of
            its file or its encoder's. For FaceID adapters `kind`: which it is, such as
            "faceid-plusv2", where its tensors do not tell; a short name does.
            `lora_scale`: the strength of the LoRA in its file, 1. `face_embedder`: finds faces
            in pictures; see `ipa.request.faces`.

    Returns:
        The adapter's name; of several a list.

    Raises:
        Cancelled: `cancel` says so; nothing of it is loaded.
        CheckpointError: The file is damaged, or made for another base model or encoder.
        RequestError: The name is taken, the scale does not fit the UNet, or it must be told
            which kind of adapter it is.
    """
    check_callback("face_embedder", options.get("face_embedder"))
    wanted = wanted_adapters(
        source=source, weight_name=weight_name, subfolder=subfolder, name=name, scale=scale
    )
    scales = [loaded.adapters.checked(one.scale) for one in wanted]
    folder = options.get("image_encoder_folder", "image_encoder")
    with watching(on_progress, cancel):
        found = [
            resolve_adapter(
                one.source,
                weight_name=one.weight_name,
                subfolder=one.subfolder,
                image_encoder_folder=folder,
                **hub_only(options),
            )
            for one in wanted
        ]
        names = [one.name or files.name for one, files in zip(wanted, found, strict=True)]
        with loaded.changed():
            loaded.adapters.load_all(names, found, scales, options)
    return names if isinstance(wanted, list) else names[0]


@checked
def set_ip_adapter_scale(
    loaded: Loaded, scale: Scale | Sequence[Scale | Sequence[Scale]], name: str | None = None
) -> None:
    """Set λ where image prompts give none.

    Args:
        scale: See `ipa.request.scales.Scale`, for the adapter `name` or for all; or a list
            with one of them per loaded adapter. An entry that is a list in turn has one of
            them per picture of an image prompt, as in diffusers: [[0.7, 0.3]].
        name: The adapter; None is all of them.
    """
    with loaded.unplanned():
        loaded.adapters.set_scale(scale, name)


@checked
def unload_ip_adapter(loaded: Loaded, name: str | None = None) -> None:
    """Forget one adapter, or all of them."""
    with loaded.changed():
        loaded.adapters.unload(name)
