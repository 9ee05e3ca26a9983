"""From what a user names (a folder, a hub id, "demo") to files on this machine."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Unpack

from ipa import demo
from ipa.errors import CheckpointError, RequestError
from ipa.model.folder import ModelFolder

from .catalogue import ADAPTERS
from .hub import HubName, HubOptions, download, hub_name
from .hub_files import CONFIG, MODEL_INDEX, component_files, model_files, require_file
from .model_folder import open_model_folder, open_single_file
from .public_models import near_names, public_model

_DEMO, _ENCODER = "demo", "image_encoder"


_FILES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")


def resolve_model(
    model: str | Path,
    *,
    variant: str | None = None,
    config: str | Path | None = None,
    prediction_type: str | None = None,
    ema: bool = False,
    **hub: Unpack[HubOptions],
) -> ModelFolder:
    """Find a model by name.

    Args:
        model: "demo", a diffusers folder, a converted folder, a single file, a short name of
            `public_models.MODELS`, or a name on the hub (owner/name, or owner/name/folder/file of a
            single file).
        variant: "fp16" and the like, in the file names.
        config: For a single file: a folder with configs in place of the base's.
        prediction_type: For a single file that does not tell: "epsilon" or "v_prediction".
        ema: For a single file: take the UNet's averaged weights.
        **hub: revision and offline, as all that is loaded takes them (`HubOptions`).

    Raises:
        CheckpointError: It does not exist or is not a supported model.
        RequestError: An option is for another kind of source.
    """
    if public := public_model(model):
        model, variant = public.repository, variant or public.variant
    path = demo.model() if model == _DEMO else Path(model).expanduser()
    name = hub_name(model)
    is_file = path.is_file() or (name is not None and bool(name.path))
    if not is_file and (config is not None or prediction_type is not None or ema):
        raise RequestError(
            "config, prediction_type and ema are for single files",
            found=f"{model}, which is none",
            remedy="a folder's own configs say what it is",
        )
    if name is not None:
        path = _on_hub(name, variant=variant, **hub)
    elif hub.get("revision") is not None and path.exists():
        raise RequestError(
            "revision= is for models on the hub",
            found=f"{model}, which is {'the embedded model' if model == _DEMO else 'here'}",
            remedy="leave it out, or name the model as owner/name",
        )
    if not is_file:
        return open_model_folder(path, name=str(model), variant=variant)
    return open_single_file(
        path,
        name=str(model),
        config=Path(config).expanduser() if config else None,
        prediction_type=prediction_type,
        ema=ema,
    )


def resolve_file(source: str | Path, **hub: Unpack[HubOptions]) -> Path:
    """Find a file: a path as it stands, or one of the hub (owner/name/folder/file).

    Raises:
        CheckpointError: The hub has no such file, or cannot be reached.
    """
    name = hub_name(source)
    if name is None or not name.path:
        return Path(source).expanduser()
    return _on_hub(name, variant=None, **hub)


def resolve_repository(
    repository: str,
    *,
    subfolder: str = "",
    variant: str | None = None,
    **hub: Unpack[HubOptions],
) -> Path:
    """Find a repository, or a folder in one: a model, or one network such as a ControlNet.

    Raises:
        CheckpointError: It is neither, has no weights in that precision, or cannot be reached.
    """

    place = f"{subfolder}/" if subfolder else ""

    def choose(names: Collection[str]) -> Collection[str]:
        inside = [name.removeprefix(place) for name in names if name.startswith(place)]
        files = model_files if MODEL_INDEX in inside else component_files
        return [
            place + name for name in files(inside, f"{repository}/{subfolder}".rstrip("/"), variant)
        ]

    markers = (place + MODEL_INDEX, place + CONFIG)
    root = download(repository, choose, markers=markers, **hub)
    root /= subfolder
    if (root / MODEL_INDEX).is_file():
        open_model_folder(root, name=repository, variant=variant)
    else:
        here = [path.name for path in root.iterdir()]  # perhaps a part, without the hub
        component_files(here, f"{repository}, as the cache has it,", variant)
    return root


def _on_hub(name: HubName, *, variant: str | None, **hub: Unpack[HubOptions]) -> Path:
    """A model's folder, or a file."""

    def choose(names: Collection[str]) -> Collection[str]:
        if not name.path:
            return model_files(names, name.repository, variant)
        require_file(names, name.repository, name.path)
        return (name.path,)

    marker = name.path or MODEL_INDEX
    root = download(name.repository, choose, markers=(marker,), **hub)
    return root / name.path


def _no_file(source: str | Path, root: Path, *, on_hub: bool) -> CheckpointError:
    """The error for an adapter's file that is not named, or not there."""
    if not on_hub and not root.exists():
        return CheckpointError(
            f"{source} does not exist",
            remedy=f"{near_names(root, ADAPTERS)}Check the path; names on the hub are "
            "owner/name/folder/file.safetensors",
        )
    return CheckpointError(
        f"{source}: which file?",
        found="a folder" if root.is_dir() else "no such file here",
        remedy='pass weight_name=, such as "ip-adapter_sd15.safetensors"',
    )
