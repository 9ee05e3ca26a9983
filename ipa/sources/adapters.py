"""IP-Adapters: from a name to the file and the image encoder that it needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack

from ipa import demo
from ipa.errors import CheckpointError
from ipa.model.folder import AdapterFiles

from .catalogue import PublicAdapter, find_adapter
from .encoder_places import comfyui_folder, is_encoder, named_encoder
from .hub import HubName, HubOptions, download, hub_name
from .hub_files import CONFIG, encoder_files, require_file
from .models import _ENCODER, _FILES, _no_file, _on_hub

# The embedded adapters, as a text: for requests that are JSON.
_DEMO_ADAPTERS: Mapping[str, Literal["base", "plus"]] = {"demo:base": "base", "demo:plus": "plus"}


def resolve_adapter(
    source: str | Path,
    *,
    weight_name: str | None = None,
    subfolder: str = "",
    image_encoder_folder: str | Path | None = _ENCODER,
    **hub: Unpack[HubOptions],
) -> AdapterFiles:
    """Find an IP-Adapter's file and its image encoder, as diffusers finds them.

    Args:
        source: A .safetensors or .bin file, a folder, a name on the hub (owner/name with
            `weight_name`, or owner/name/folder/file), or a short name of `catalogue.ADAPTERS`;
            or one of the demo model's, "demo:base" or "demo:plus".
        weight_name: File name inside the folder or repository.
        subfolder: Folder of the file inside it.
        image_encoder_folder: Folder of the encoder, or a file such as ComfyUI's: a bare name lies
            beside the weight file, a path with "/" starts at `source`, or else, both, in the
            current folder. None: the model's own encoder.
        **hub: revision and offline, as all that is loaded takes them (`HubOptions`).
    """
    if (kind := _DEMO_ADAPTERS.get(str(source))) is not None:
        files = resolve_adapter(demo.adapter(kind), image_encoder_folder=image_encoder_folder)
        return replace(files, name=kind)
    root = Path(source).expanduser()
    named = hub_name(source)
    if root.is_file():
        root, weight_name, subfolder = root.parent, root.name, ""
    elif named is not None and named.path and weight_name is None:
        weight_name, subfolder = named.file, named.folder
    is_name = len(root.parts) == 1 and root.suffix.lower() not in _FILES
    if weight_name is None and not root.exists() and is_name:
        public = find_adapter(str(source))
        usual = str(image_encoder_folder) == _ENCODER
        files = _fetch_public(str(source), public, with_encoder=usual, **hub)
        if usual or image_encoder_folder is None:
            return files
        encoder_path = Path(image_encoder_folder).expanduser()
        return replace(files, image_encoder=named_encoder(encoder_path, encoder_path))
    if weight_name is None:
        raise _no_file(source, root, on_hub=named is not None)
    encoder = None if image_encoder_folder is None else str(image_encoder_folder)
    if encoder is not None and "/" not in encoder and subfolder:
        encoder = f"{subfolder}/{encoder}"
    file = f"{subfolder}/{weight_name}" if subfolder else weight_name
    if named is not None:
        root = _adapter_on_hub(named.repository, file, encoder, **hub)
    if not (root / file).is_file():
        raise CheckpointError(
            f"{root / file} does not exist", remedy="check the path, subfolder= and weight_name="
        )
    weights = root / file
    files = AdapterFiles(name=weights.stem, weights=weights, image_encoder=None)
    if encoder is None:
        return files
    encoder_path = root / Path(encoder).expanduser()
    if str(image_encoder_folder) != _ENCODER:
        return replace(files, image_encoder=named_encoder(str(image_encoder_folder), encoder_path))
    if is_encoder(encoder_path):
        return replace(files, image_encoder=encoder_path)
    return replace(files, encoders_nearby=None if named else comfyui_folder(weights))


def _adapter_on_hub(
    repository: str, file: str, encoder: str | None, **hub: Unpack[HubOptions]
) -> Path:
    """A repository's folder with an adapter, and its image encoder if there is one."""

    def choose(names: Collection[str]) -> Collection[str]:
        require_file(names, repository, file)
        return (file, *(encoder_files(names, encoder) if encoder else ()))

    return download(repository, choose, markers=(file,), **hub)


def _fetch_public(
    name: str, public: PublicAdapter, *, with_encoder: bool, **hub: Unpack[HubOptions]
) -> AdapterFiles:
    file = HubName(public.repository, public.path)
    weights = _on_hub(file, variant=None, **hub)
    encoder = None
    if public.encoder and with_encoder:
        root = download(
            public.encoder_repository,
            lambda names: encoder_files(names, str(public.encoder)),
            markers=(f"{public.encoder}/{CONFIG}",),
            offline=hub.get("offline", False),
        )
        encoder = root / public.encoder
    kind = name.rsplit("-", 1)[0] if public.is_faceid else None
    return AdapterFiles(name=name, weights=weights, image_encoder=encoder, kind=kind)
