"""Converters: checkpoints in their original formats, read as our MLX modules want them.

numpy and the standard library only. Tensors are checked by header before any memory is spent, and
then read one by one from a memory map.
"""

from .adapter_file import convert_adapter
from .components import read_adapter, read_component
from .controlnet_config import open_controlnet
from .converted import Converted, ConvertedTensor
from .folder import convert_component, convert_model
from .inspection import Inspection, Part, inspect
from .lone import Kind, kind_of
from .lora import Lora, LoraPair
from .lora_file import convert_lora
from .lora_names import LoraTargets
from .lora_plan import read_lora
from .model import read_model
from .quantized_layers import is_quantized
from .recognition import PredictionType, Recognised, recognise, recognise_unet
from .verification import verify_adapter, verify_component, verify_lora, verify_model

__all__ = [
    "Converted",
    "ConvertedTensor",
    "Inspection",
    "Kind",
    "Lora",
    "LoraPair",
    "LoraTargets",
    "Part",
    "PredictionType",
    "Recognised",
    "convert_adapter",
    "convert_component",
    "convert_lora",
    "convert_model",
    "inspect",
    "is_quantized",
    "kind_of",
    "open_controlnet",
    "read_adapter",
    "read_component",
    "read_lora",
    "read_model",
    "recognise",
    "recognise_unet",
    "verify_adapter",
    "verify_component",
    "verify_lora",
    "verify_model",
]
