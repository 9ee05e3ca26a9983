"""Converters: checkpoints in their original formats, read as our MLX modules want them.

numpy and the standard library only. Tensors are checked by header before any memory is spent, and
then read one by one from a memory map.
"""

from .components import read_adapter, read_component
from .converted import Converted, ConvertedTensor
from .folder import convert_model
from .inspection import Inspection, Part, inspect
from .quantized_layers import is_quantized
from .verification import verify_model

__all__ = [
    "Converted",
    "ConvertedTensor",
    "Inspection",
    "Part",
    "convert_model",
    "inspect",
    "is_quantized",
    "read_adapter",
    "read_component",
    "verify_model",
]
