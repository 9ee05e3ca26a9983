"""Converters: checkpoints in their original formats, read as our MLX modules want them.

numpy and the standard library only. Tensors are checked by header before any memory is spent, and
then read one by one from a memory map. The names in `__all__` are imported when they are first
asked for: reading a model loads nothing that writes one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .containers.torch_save.torch_list import read_tensor_list, write_tensor_list
    from .inspection.fingerprint import agreement, fingerprint, lora_fingerprint
    from .inspection.inspection import Inspection, Part, inspect
    from .lora.names import LoraTargets
    from .lora.pairs import Lora, LoraPair
    from .lora.reading import read_lora
    from .reading.component_file import Kind, kind_of, open_component, read_control
    from .reading.components import read_adapter, read_component
    from .reading.controlnet_config import open_controlnet
    from .reading.model import read_model
    from .reading.recognition import PredictionType, Recognised, recognise, recognise_unet
    from .reading.t2i_adapter_config import open_t2i_adapter
    from .reading.textual_inversion import read_bundled_words, read_textual_inversion
    from .tables.converted import Converted, ConvertedTensor
    from .tables.layout import Layout
    from .tables.quantized_layers import is_quantized
    from .writing.adapter_file import convert_adapter
    from .writing.folder import convert_component, convert_model
    from .writing.lora_file import convert_lora
    from .writing.verification import verify_adapter, verify_component, verify_lora, verify_model

__all__ = [
    "Converted",
    "ConvertedTensor",
    "Inspection",
    "Kind",
    "Layout",
    "Lora",
    "LoraPair",
    "LoraTargets",
    "Part",
    "PredictionType",
    "Recognised",
    "agreement",
    "convert_adapter",
    "convert_component",
    "convert_lora",
    "convert_model",
    "fingerprint",
    "inspect",
    "is_quantized",
    "kind_of",
    "lora_fingerprint",
    "open_component",
    "open_controlnet",
    "open_t2i_adapter",
    "read_adapter",
    "read_bundled_words",
    "read_component",
    "read_control",
    "read_lora",
    "read_model",
    "read_tensor_list",
    "read_textual_inversion",
    "recognise",
    "recognise_unet",
    "verify_adapter",
    "verify_component",
    "verify_lora",
    "verify_model",
    "write_tensor_list",
]

_NAMES = {
    "ipa_convert.containers.torch_save.torch_list": ("read_tensor_list", "write_tensor_list"),
    "ipa_convert.inspection.fingerprint": ("agreement", "fingerprint", "lora_fingerprint"),
    "ipa_convert.inspection.inspection": ("Inspection", "Part", "inspect"),
    "ipa_convert.lora.names": ("LoraTargets",),
    "ipa_convert.lora.pairs": ("Lora", "LoraPair"),
    "ipa_convert.lora.reading": ("read_lora",),
    "ipa_convert.reading.component_file": ("Kind", "kind_of", "open_component", "read_control"),
    "ipa_convert.reading.components": ("read_adapter", "read_component"),
    "ipa_convert.reading.controlnet_config": ("open_controlnet",),
    "ipa_convert.reading.model": ("read_model",),
    "ipa_convert.reading.recognition": (
        "PredictionType",
        "Recognised",
        "recognise",
        "recognise_unet",
    ),
    "ipa_convert.reading.t2i_adapter_config": ("open_t2i_adapter",),
    "ipa_convert.reading.textual_inversion": ("read_bundled_words", "read_textual_inversion"),
    "ipa_convert.tables.converted": ("Converted", "ConvertedTensor"),
    "ipa_convert.tables.layout": ("Layout",),
    "ipa_convert.tables.quantized_layers": ("is_quantized",),
    "ipa_convert.writing.adapter_file": ("convert_adapter",),
    "ipa_convert.writing.folder": ("convert_component", "convert_model"),
    "ipa_convert.writing.lora_file": ("convert_lora",),
    "ipa_convert.writing.verification": (
        "verify_adapter",
        "verify_component",
        "verify_lora",
        "verify_model",
    ),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        """The public names."""
        return list(__all__)
