"""The closed list of names that a pickle of weights may use.

For Python a name in a pickle is an import. Here it is a row of a table or a refusal: nothing is
imported, and what no tensor is made of becomes opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .pickle_values import (
    DType,
    Function,
    Holder,
    Inert,
    Known,
    StorageType,
    ordered_dict,
    parameter,
    rebuild,
    rebuild_typed,
    size,
)

_STORAGES: Mapping[str, str] = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_DTYPES: Mapping[str, str] = {
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
}
_CALLS: Mapping[tuple[str, str], Callable[[tuple[object, ...]], object]] = {
    ("collections", "OrderedDict"): ordered_dict,
    ("torch._utils", "_rebuild_tensor"): rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild,
    ("torch._utils", "_rebuild_tensor_v3"): rebuild_typed,
    ("torch._utils", "_rebuild_parameter"): parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): parameter,
    ("torch", "Size"): size,
}
# What a training run leaves beside the weights, by module: how far it came, its settings, its
# optimizers. Lightning before 1.5 has classes as keys; hyper-parameters are a plain dict, an
# argparse.Namespace, or of OmegaConf, which keeps types and the classes of its nodes.
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_TYPES = ("bool", "bytes", "complex", "dict", "float", "frozenset", "list", "set", "tuple")
_INERT: Mapping[str, tuple[str, ...]] = {
    "_codecs": ("encode",),
    "__builtin__": (*_TYPES, "long", "unicode"),  # of protocol 2
    "builtins": (*_TYPES, "int", "str"),
    "argparse": ("Namespace",),
    "collections": ("Counter", "defaultdict", "deque"),
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),  # from 2.0
    "numpy.core.numeric": ("_frombuffer",),  # arrays in protocol 5
    "numpy._core.numeric": ("_frombuffer",),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.nodes": (
        "AnyNode",
        "BooleanNode",
        "BytesNode",
        "FloatNode",
        "IntegerNode",
        "InterpolationResultNode",
        "PathNode",
        "StringNode",
    ),
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,  # of Python 3.13
    "pytorch_lightning.callbacks.early_stopping": ("EarlyStopping",),
    "pytorch_lightning.callbacks.model_checkpoint": ("ModelCheckpoint",),
    "pytorch_lightning.callbacks.timer": ("Timer",),
    "pytorch_lightning.utilities.parsing": ("AttributeDict",),
    "lightning_fabric.utilities.data": ("AttributeDict",),  # from 1.8
    "lightning.fabric.utilities.data": ("AttributeDict",),  # from 2.0, under its other name
    "torch": ("bfloat16", "device", "float16", "float32", "float64"),
    "typing": ("Any", "Dict", "List", "Optional", "Tuple", "Union"),
}

GLOBALS: Mapping[tuple[str, str], Known] = {
    **{("torch", name): StorageType(tag) for name, tag in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): StorageType(None),
    **{("torch", name): DType(tag) for name, tag in _DTYPES.items()},
    **{key: Function(key[1], call) for key, call in _CALLS.items()},
    # What the authors of textual inversion keep its embeddings in.
    ("torch.nn.modules.container", "ParameterDict"): Holder("torch.nn.ParameterDict"),
    **{
        (module, name): Inert(f"{module}.{name}")
        for module, names in _INERT.items()
        for name in names
    },
}
"""Every (module, name) that a pickle may name."""
