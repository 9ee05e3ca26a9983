"""From what a user names (a folder, a hub id, "demo") to files on this machine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ipa import demo
from ipa.contract.errors import CheckpointError, RequestError
from ipa.contract.model import AdapterFiles, ModelFolder

from .catalogue import ADAPTERS, PublicAdapter, find_adapter
from .encoder_places import comfyui_folder, is_encoder, named_encoder
from .hub import download
from .hub_files import (
    CONFIG,
    MODEL_INDEX,
    component_files,
    encoder_files,
    model_files,
    require_file,
)
from .hub_name import HubName, hub_name
from .model_folder import open_model_folder
from .public_models import near_names, public_model
from .single_file import open_single_file

_DEMO, _ENCODER = "demo", "image_encoder"
_FILES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")


def resolve_model(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    offline: bool = False,
    config: str | Path | None = None,
    prediction_type: str | None = None,
    ema: bool = False,
) -> ModelFolder:
    """A model by name.

    Args:
        model: "demo", a diffusers folder, a converted folder, a single file, a short name of
            `public_models.MODELS`, or a name on the hub (owner/name, or owner/name/folder/file of a
            single file).
        revision: Branch, tag or commit on the hub.
        variant: "fp16" and the like, in the file names.
        offline: Use the local cache only.
        config: For a single file: a folder with configs in place of the base's.
        prediction_type: For a single file that does not tell: "epsilon" or "v_prediction".
        ema: For a single file: take the UNet's averaged weights.

    Raises:
        CheckpointError: It does not exist or is not a supported model.
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
        path = _on_hub(name, revision=revision, variant=variant, offline=offline)
    if not is_file:
        return open_model_folder(path, name=str(model), variant=variant)
    return open_single_file(
        path,
        name=str(model),
        config=Path(config).expanduser() if config else None,
        prediction_type=prediction_type,
        ema=ema,
    )


def resolve_file(source: str | Path, *, revision: str | None = None, offline: bool = False) -> Path:
    """A path as it stands, or where a file of the hub lies (owner/name/folder/file).

    Raises:
        CheckpointError: The hub has no such file, or cannot be reached.
    """
    name = hub_name(source)
    if name is None or not name.path:
        return Path(source).expanduser()
    return _on_hub(name, revision=revision, variant=None, offline=offline)


def resolve_repository(
    repository: str,
    *,
    subfolder: str = "",
    revision: str | None = None,
    variant: str | None = None,
    offline: bool = False,
) -> Path:
    """The folder of a whole repository, or one in it: a model, or one network such as a ControlNet.

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
    root = download(repository, choose, markers=markers, revision=revision, offline=offline)
    root /= subfolder
    if (root / MODEL_INDEX).is_file():
        open_model_folder(root, name=repository, variant=variant)
    else:
        here = [path.name for path in root.iterdir()]  # perhaps a part, without the hub
        component_files(here, f"{repository}, as the cache has it,", variant)
    return root


def _on_hub(name: HubName, *, revision: str | None, variant: str | None, offline: bool) -> Path:
    """A model's folder, or a file."""

    def choose(names: Collection[str]) -> Collection[str]:
        if not name.path:
            return model_files(names, name.repository, variant)
        require_file(names, name.repository, name.path)
        return (name.path,)

    marker = name.path or MODEL_INDEX
    root = download(name.repository, choose, markers=(marker,), revision=revision, offline=offline)
    return root / name.path


def resolve_adapter(
    source: str | Path,
    *,
    weight_name: str | None = None,
    subfolder: str = "",
    image_encoder_folder: str | Path | None = _ENCODER,
    revision: str | None = None,
    offline: bool = False,
) -> AdapterFiles:
    """An IP-Adapter file and the image encoder that comes with it, found as diffusers finds it.

    Args:
        source: A .safetensors or .bin file, a folder, a name on the hub (owner/name with
            `weight_name`, or owner/name/folder/file), or a short name of `catalogue.ADAPTERS`.
        weight_name: File name inside the folder or repository.
        subfolder: Folder of the file inside it.
        image_encoder_folder: Folder of the encoder, or a file such as ComfyUI's: a bare name lies
            beside the weight file, a path with "/" starts at `source`, or else, both, in the
            current folder. None: the model's own encoder.
        revision: Branch, tag or commit on the hub.
        offline: Use the local cache only.
    """
    root = Path(source).expanduser()
    hub = hub_name(source)
    if root.is_file():
        root, weight_name, subfolder = root.parent, root.name, ""
    elif hub is not None and hub.path and weight_name is None:
        weight_name, subfolder = hub.file, hub.folder
    is_name = len(root.parts) == 1 and root.suffix.lower() not in _FILES
    if weight_name is None and not root.exists() and is_name:
        public = find_adapter(str(source))
        usual = str(image_encoder_folder) == _ENCODER
        files = _fetch_public(str(source), public, revision, offline, with_encoder=usual)
        if usual or image_encoder_folder is None:
            return files
        own = Path(image_encoder_folder).expanduser()
        return replace(files, image_encoder=named_encoder(own, own))
    if weight_name is None:
        raise _no_file(source, root, on_hub=hub is not None)
    encoder = None if image_encoder_folder is None else str(image_encoder_folder)
    if encoder is not None and "/" not in encoder and subfolder:
        encoder = f"{subfolder}/{encoder}"
    file = f"{subfolder}/{weight_name}" if subfolder else weight_name
    if hub is not None:
        root = _adapter_on_hub(hub.repository, file, encoder, revision, offline)
    if not (root / file).is_file():
        raise CheckpointError(
            f"{root / file} does not exist", remedy="check the path, subfolder= and weight_name="
        )
    weights = root / file
    files = AdapterFiles(name=weights.stem, weights=weights, image_encoder=None)
    if encoder is None:
        return files
    own = root / Path(encoder).expanduser()
    if str(image_encoder_folder) != _ENCODER:
        return replace(files, image_encoder=named_encoder(str(image_encoder_folder), own))
    if is_encoder(own):
        return replace(files, image_encoder=own)
    return replace(files, encoders_nearby=None if hub else comfyui_folder(weights))


def _no_file(source: str | Path, root: Path, *, on_hub: bool) -> CheckpointError:
    """What to say where an adapter's file is not named, or not there."""
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


def _adapter_on_hub(
    repository: str, file: str, encoder: str | None, revision: str | None, offline: bool
) -> Path:
    """The folder of a repository with an adapter, and with its encoder if there is one."""

    def choose(names: Collection[str]) -> Collection[str]:
        require_file(names, repository, file)
        return (file, *(encoder_files(names, encoder) if encoder else ()))

    return download(repository, choose, markers=(file,), revision=revision, offline=offline)


def _fetch_public(
    name: str, public: PublicAdapter, revision: str | None, offline: bool, *, with_encoder: bool
) -> AdapterFiles:
    file = HubName(public.repository, public.path)
    weights = _on_hub(file, revision=revision, variant=None, offline=offline)
    encoder = None
    if public.encoder and with_encoder:
        root = download(
            public.encoder_repository,
            lambda names: encoder_files(names, str(public.encoder)),
            markers=(f"{public.encoder}/{CONFIG}",),
            offline=offline,
        )
        encoder = root / public.encoder
    kind = name.rsplit("-", 1)[0] if public.is_faceid else None
    return AdapterFiles(name=name, weights=weights, image_encoder=encoder, kind=kind)
