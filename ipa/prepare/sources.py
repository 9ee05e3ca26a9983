"""From what a user names (a folder, a hub id, "demo") to files on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ipa import demo
from ipa.contract.errors import CheckpointError, RequestError
from ipa.contract.files import STEMS
from ipa.contract.model import AdapterFiles, ModelFolder

from .catalogue import PublicAdapter, find_adapter
from .model_folder import open_model_folder
from .single_file import open_single_file

_DEMO = "demo"
_CONFIGS = (
    "model_index.json",
    "*/config.json",
    "*/scheduler_config.json",
    "*/preprocessor_config.json",
    "tokenizer/*",
    "tokenizer_2/*",
)
_CONTROL = "controlnet"  # a model is used without the one that it may have been saved with


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
        model: "demo", a diffusers folder, a converted folder, a single file, or a hub id
            (owner/name).
        revision: Branch, tag or commit on the hub.
        variant: "fp16" and the like, in the file names.
        offline: Use the local cache only.
        config: For a single file: a folder with configs in place of the base's.
        prediction_type: For a single file that does not tell: "epsilon" or "v_prediction".
        ema: For a single file: take the UNet's averaged weights.

    Raises:
        CheckpointError: It does not exist or is not a supported model.
    """
    path = demo.model() if model == _DEMO else Path(model).expanduser()
    if path.is_file():
        return open_single_file(
            path,
            name=str(model),
            config=Path(config).expanduser() if config else None,
            prediction_type=prediction_type,
            ema=ema,
        )
    if config is not None or prediction_type is not None or ema:
        raise RequestError(
            "config, prediction_type and ema are for single files",
            found=f"{model}, which is none",
            remedy="a folder's own configs say what it is",
        )
    if not path.exists() and _is_hub_id(str(model)):
        patterns = [*_CONFIGS, *_weight_patterns(variant)]
        path = _snapshot(str(model), patterns, revision, offline)
    return open_model_folder(path, name=str(model), variant=variant)


def resolve_adapter(
    source: str | Path,
    *,
    weight_name: str | None = None,
    subfolder: str = "",
    image_encoder_folder: str | None = "image_encoder",
    revision: str | None = None,
    offline: bool = False,
) -> AdapterFiles:
    """An IP-Adapter file and the image encoder that comes with it, found as diffusers finds it.

    Args:
        source: A .safetensors or .bin file, a folder, a hub id, or a short name of
            `catalogue.ADAPTERS`.
        weight_name: File name inside the folder or repository.
        subfolder: Folder of the file inside it.
        image_encoder_folder: Folder of the encoder: a bare name lies beside the weight file, a path
            with "/" starts at `source`. None: the model's own encoder.
        revision: Branch, tag or commit on the hub.
        offline: Use the local cache only.
    """
    root = Path(source).expanduser()
    if root.is_file():
        root, weight_name, subfolder = root.parent, root.name, ""
    if weight_name is None and not root.exists() and len(root.parts) == 1:
        public = find_adapter(str(source))
        wanted = image_encoder_folder is not None
        return _fetch_public(str(source), public, revision, offline, with_encoder=wanted)
    if weight_name is None:
        raise CheckpointError(
            f"{source}: which file?",
            found="a folder" if root.is_dir() else "no such file here",
            remedy='pass weight_name=, such as "ip-adapter_sd15.safetensors"',
        )
    encoder = image_encoder_folder
    if encoder is not None and "/" not in encoder and subfolder:
        encoder = f"{subfolder}/{encoder}"
    file = f"{subfolder}/{weight_name}" if subfolder else weight_name
    if not root.exists() and _is_hub_id(str(source)):
        patterns = [file, *([f"{encoder}/*.json", f"{encoder}/*.safetensors"] if encoder else [])]
        root = _snapshot(str(source), patterns, revision, offline)
    if not (root / file).is_file():
        raise CheckpointError(
            f"{root / file} does not exist", remedy="check the path, subfolder= and weight_name="
        )
    folder = root / encoder if encoder else None
    if folder is not None and not (folder / "config.json").is_file():
        if image_encoder_folder != "image_encoder":
            raise CheckpointError(
                f"{folder} holds no image encoder",
                remedy="config.json and model.safetensors are needed",
            )
        folder = None
    return AdapterFiles(name=Path(weight_name).stem, weights=root / file, image_encoder=folder)


def _fetch_public(
    name: str, public: PublicAdapter, revision: str | None, offline: bool, *, with_encoder: bool
) -> AdapterFiles:
    root = _snapshot(public.repository, [public.path], revision, offline)
    encoder = None
    if public.encoder and with_encoder:
        patterns = [f"{public.encoder}/*.json", f"{public.encoder}/*.safetensors"]
        encoder = _snapshot(public.encoder_repository, patterns, None, offline) / public.encoder
    weights = root / public.path
    if not weights.is_file():
        raise CheckpointError(
            f"{public.repository} has no {public.path} at this revision",
            remedy="leave revision= out, or fetch the file by its path",
        )
    return AdapterFiles(name=name, weights=weights, image_encoder=encoder)


def _weight_patterns(variant: str | None) -> Iterator[str]:
    """The files of one precision alone: repositories hold several, of gigabytes each."""
    tag = f".{variant}" if variant else ""
    for component, stem in STEMS.items():
        if component == _CONTROL:
            continue
        yield f"{component}/{stem}{tag}.safetensors"
        yield f"{component}/{stem}.safetensors.index{tag}.json"
        yield f"{component}/{stem}{tag}-?????-of-?????.safetensors"
        yield f"{component}/{stem}-?????-of-?????{tag}.safetensors"


def _is_hub_id(name: str) -> bool:
    owner, slash, repository = name.partition("/")
    plain = all(part and not part.startswith((".", "~")) for part in (owner, repository))
    return bool(slash) and plain and "/" not in repository and "\\" not in name


def _snapshot(repository: str, patterns: list[str], revision: str | None, offline: bool) -> Path:
    """Download what is needed of a repository, or find it in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=patterns, local_files_only=offline
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{repository}: neither a folder here nor available from the hub",
            found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            remedy="check the name, the network and your access, or give a local folder",
        ) from error
