"""What a single-file checkpoint leaves out: the configs of each base model, and CLIP's vocabulary.

A folder for each base in diffusers' layout, without weights. Values: the configs that diffusers and
transformers published with the models. The vocabulary is OpenAI CLIP's (MIT licence, see NOTICE),
which all of them share.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Literal

Base = Literal["sd15", "sd2", "sdxl"]


def folder(base: Base) -> Path:
    """The configs of a base model."""
    return Path(str(importlib.resources.files(__name__))) / base


def vocabulary() -> Path:
    """The folder with vocab.json and merges.txt."""
    return Path(str(importlib.resources.files(__name__))) / "vocabulary"
