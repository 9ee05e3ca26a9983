"""Converters: checkpoints in their original formats, read as our MLX modules want them.

numpy and the standard library only. Tensors are checked by header before any memory is spent, and
then read one by one from a memory map.
"""

from .adapter_file import convert_adapter
from .components import read_adapter, read_component
from .controlnet_config import open_controlnet
from .converted import Converted, ConvertedTensor
from .folder import convert_model
from .inspection import Inspection, Part, inspect
from .lora import Lora, LoraPair
from .lora_file import convert_lora
from .lora_names import LoraTargets
from .lora_plan import read_lora
from .model import read_model
from .quantized_layers import is_quantized
from .recognition import PredictionType, Recognised, recognise
from .verification import verify_model

__all__ = [
    "Converted",
    "ConvertedTensor",
    "Inspection",
    "Lora",
    "LoraPair",
    "LoraTargets",
    "Part",
    "PredictionType",
    "Recognised",
    "convert_adapter",
    "convert_lora",
    "convert_model",
    "inspect",
    "is_quantized",
    "open_controlnet",
    "read_adapter",
    "read_component",
    "read_lora",
    "read_model",
    "recognise",
    "verify_model",
]
