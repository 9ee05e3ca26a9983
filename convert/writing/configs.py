"""The small files of a model: configs and tokenizers, copied beside the converted weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ipa.model.files import read_json
from ipa.model.folder import ModelFolder
from ipa.model.unet import NO_ADAPTER

_FOLDERS = ("tokenizer", "tokenizer_2", "scheduler", "feature_extractor")
_TOKENIZERS = ("tokenizer", "tokenizer_2")
_SUFFIXES = {".json", ".txt", ".md"}
# Shard indices: the converted weights are one file.
_INDICES = (".safetensors.index.", ".bin.index.")


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
            if wanted and file.is_file() and not any(part in file.name for part in _INDICES):
                shutil.copyfile(file, target / name / file.name)
        if name in _TOKENIZERS and source.vocabulary is not None:
            for file in source.vocabulary.iterdir():
                if not (target / name / file.name).exists():
                    shutil.copyfile(file, target / name / file.name)
    config = target / "unet" / "config.json"
    settings = read_json(config) if config.is_file() else {}
    if any(settings.get(key) for key in NO_ADAPTER):
        _write(config, {**settings, **NO_ADAPTER})
    if source.single_file is not None:
        for path, changes in source.single_file.changes.items():
            _write(target / path, {**read_json(target / path), **changes})


def write_config(config: Mapping[str, Any], folder: Path) -> None:
    """Write config.json."""
    _write(folder / "config.json", config)


def _write(path: Path, config: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")
