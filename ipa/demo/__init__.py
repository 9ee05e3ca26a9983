"""The embedded demo: a small trained model (64 × 64 pixels) and pictures that it has never seen.

`ipa.load("demo")` loads the model. It knows eight shapes, colours and backgrounds, five patterns,
and about 45 words.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Literal

_ADAPTERS = {"base": "ip-adapter_tiny.safetensors", "plus": "ip-adapter-plus_tiny.safetensors"}


def model() -> Path:
    """The model's folder, in diffusers' layout."""
    return Path(str(importlib.resources.files(__name__))) / "model"


def adapter(kind: Literal["base", "plus"]) -> Path:
    """An IP-Adapter for the demo model, for `Pipeline.load_ip_adapter`."""
    return model() / "ip_adapter" / _ADAPTERS[kind]


def controlnet() -> Path:
    """A ControlNet for the demo model, for `Pipeline.load_controlnet`; its pictures are edges."""
    return model() / "controlnet"


def recorded() -> Path:
    """A folder with a run that was recorded, for `ipa.parity.recorded`."""
    return model().parent / "recorded"


def references() -> tuple[Path, ...]:
    """Eight reference pictures, named after what they show, in alphabetical order."""
    return tuple(sorted((model().parent / "references").glob("*.png")))
