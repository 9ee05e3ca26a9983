"""ControlNets and T2I-Adapters: from a name to their files and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from ipa import demo
from ipa.errors import CheckpointError, RequestError
from ipa.model.control_files import ControlNetFiles, T2IAdapterFiles
from ipa.model.controlnet import ControlNetSpec
from ipa.model.files import read_json
from ipa.model.ignoring import Ignore
from ipa.model.t2i_adapter import T2IAdapterSpec

from .hub import FileOptions, FolderOptions, HubOptions, hub_name
from .hub_files import CONFIG, MODEL_INDEX
from .models import resolve_file, resolve_repository


class ControlNetOptions(FolderOptions, total=False):
    """The keywords of `resolve_controlnet`."""

    config: str | Path | None
    global_pool_conditions: bool | None


class T2IAdapterOptions(FileOptions, FolderOptions, total=False):
    """The keywords of `resolve_t2i_adapter`."""

    config: str | Path | None
    ignore: Sequence[str] | None


DEMO_CONTROLNET = "demo:edges"
"""The embedded ControlNet, as a text: for requests that are JSON."""


def resolve_controlnet(
    source: str | Path,
    *,
    variant: str | None = None,
    config: str | Path | None = None,
    global_pool_conditions: bool | None = None,
    **hub: Unpack[HubOptions],
) -> ControlNetFiles:
    """Find a ControlNet by name: its structure known, its weights not yet read.

    Args:
        source: A folder with config.json, a file, or a name on the hub (owner/name, or
            owner/name/folder/file).
        variant: "fp16" and the like, in the names of a folder's files.
        config: For a file that is of no public size: its config.json.
        global_pool_conditions: Whether its results are averaged over the picture, as those of
            shuffle are, which a file does not tell. None takes the config's word, and False where
            there is none.
        **hub: revision and offline, as all that is loaded takes them (`HubOptions`).

    Raises:
        CheckpointError: It does not exist, or is no ControlNet that is supported.
        RequestError: A config is given for a folder, which has its own.
    """
    if str(source) == DEMO_CONTROLNET:
        files = resolve_controlnet(demo.controlnet())
        return replace(files, name=DEMO_CONTROLNET.partition(":")[2])
    named = hub_name(source)
    if named is not None and not named.path:
        name = named.repository.split("/")[1]
        path = resolve_repository(named.repository, variant=variant, **hub)
    else:
        path = resolve_file(source, **hub)
        name = path.stem if path.is_file() else path.name
    if path.is_dir() and config is not None:
        raise RequestError("config is for a file that lies alone", found=f"{source}, a folder")
    settings = _folder_config(path) if path.is_dir() else _controlnet_config(path, config)
    if global_pool_conditions is not None:
        settings["global_pool_conditions"] = global_pool_conditions
    where = str(path / CONFIG) if path.is_dir() else str(path)
    spec = ControlNetSpec.from_config(settings, where)
    return ControlNetFiles(name=name, path=path, config=settings, spec=spec, variant=variant)


def _controlnet_config(path: Path, config: str | Path | None) -> dict[str, Any]:
    import ipa_convert

    given = None if config is None else read_json(Path(config).expanduser())
    return dict(ipa_convert.open_controlnet(path, given)[0])


def _folder_config(path: Path) -> dict[str, Any]:
    if (path / MODEL_INDEX).is_file():
        raise CheckpointError(
            f"{path} is a whole model", found=MODEL_INDEX, remedy="name its folder controlnet/"
        )
    return read_json(path / CONFIG)


def resolve_t2i_adapter(
    source: str | Path,
    *,
    weight_name: str | None = None,
    subfolder: str = "",
    variant: str | None = None,
    config: str | Path | None = None,
    ignore: Sequence[str] | None = None,
    **hub: Unpack[HubOptions],
) -> T2IAdapterFiles:
    """Find a T2I-Adapter by name: its structure known, its weights not yet read.

    Args:
        source: A folder with config.json, a file in diffusers' or the original naming, or a name on
            the hub (owner/name, or owner/name/folder/file).
        weight_name: A file that lies alone inside the folder or repository.
        subfolder: Folder of the file, or of config.json, inside it.
        variant: "fp16" and the like, in the names of a folder's files.
        config: For a file that is of no public structure: its config.json.
        ignore: Names of tensors that it does not know and that may be left out.
        **hub: revision and offline, as all that is loaded takes them (`HubOptions`).

    Raises:
        CheckpointError: It does not exist, or is no T2I-Adapter that is supported.
        RequestError: A config is given for a folder, which has its own.
    """
    root, named, asked = Path(source).expanduser(), hub_name(source), Ignore.of(ignore)
    if named is not None and not named.path and weight_name is None:
        path = resolve_repository(named.repository, subfolder=subfolder, variant=variant, **hub)
        name = (subfolder or named.repository).rpartition("/")[2]
    else:
        inside = [] if root.is_file() or (named and named.path) else [subfolder, weight_name]
        whole = "/".join([str(source), *(part for part in inside if part)])
        path = resolve_file(whole, **hub)
        name = path.stem if path.is_file() else path.name
    if path.is_dir() and config is not None:
        raise RequestError("config is for a file that lies alone", found=f"{source}, a folder")
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist", remedy="check the path, subfolder= and weight_name="
        )
    settings = read_json(path / CONFIG) if path.is_dir() else _t2i_adapter_config(path, config)
    spec = T2IAdapterSpec.from_config(settings, str(path / CONFIG) if path.is_dir() else str(path))
    return T2IAdapterFiles(
        name=name, path=path, config=settings, spec=spec, variant=variant, ignore=asked
    )


def _t2i_adapter_config(path: Path, config: str | Path | None) -> dict[str, Any]:
    import ipa_convert

    given = None if config is None else read_json(Path(config).expanduser())
    return dict(ipa_convert.open_t2i_adapter(path, given)[0])
