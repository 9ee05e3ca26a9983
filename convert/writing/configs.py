"""The small files of a model: configs and tokenizers, copied beside the converted weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ipa.contract.files import read_json
from ipa.contract.model import ModelFolder
from ipa.contract.unet_spec import NO_ADAPTER

_FOLDERS = ("tokenizer", "tokenizer_2", "scheduler", "feature_extractor")
_TOKENIZERS = ("tokenizer", "tokenizer_2")
_SUFFIXES = {".json", ".txt", ".md"}
_INDEX = ".safetensors.index."  # shard indices: the converted weights are one file


def copy_configs(source: ModelFolder, target: Path, components: Iterable[str]) -> None:
    """Copy a model's configs; those of a single file are its base's, with what it changes.

    An IP-Adapter that the model was saved with is left out, in its weights and here.
    Small text files only, from a closed list of folders; links are followed (hub caches).
    """
    for name in (".", *components, *_FOLDERS):
        if not (source.path / name).is_dir():
            continue
        (target / name).mkdir(exist_ok=True)
        for file in sorted((source.path / name).iterdir()):
            wanted = file.suffix in _SUFFIXES or file.stem == "LICENSE"
            if wanted and file.is_file() and _INDEX not in file.name:
                shutil.copyfile(file, target / name / file.name)
        if name in _TOKENIZERS and source.vocabulary is not None:
            for file in source.vocabulary.iterdir():
                shutil.copyfile(file, target / name / file.name)
    if source.unet.adapter_inside:
        path = target / "unet" / "config.json"
        _write(path, {**read_json(path), **NO_ADAPTER})
    if source.single_file is not None:
        for path, changes in source.single_file.changes.items():
            _write(target / path, {**read_json(target / path), **changes})


def write_config(config: Mapping[str, Any], folder: Path) -> None:
    """Write config.json."""
    _write(folder / "config.json", config)


def _write(path: Path, config: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")
