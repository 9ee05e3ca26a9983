"""Training runs as PyTorch Lightning saves them, and what torch's open reader makes of them.

Lightning and OmegaConf are not installed: stand-ins of their classes, under the true paths and with
the true attributes, so that Python's own pickle writes what it writes of the real ones. Sources:
`dump_checkpoint` of Lightning's checkpoint connector, `Node.__getstate__` of omegaconf/base.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType, SimpleNamespace
from typing import Any, Dict, List, Optional, Tuple, Union  # noqa: UP035 - what OmegaConf keeps

import numpy as np
import torch

_NODES = (
    "AnyNode",
    "BooleanNode",
    "BytesNode",
    "FloatNode",
    "IntegerNode",
    "InterpolationResultNode",
    "PathNode",
    "StringNode",
)
_PLAIN = {
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.nodes": _NODES,
    "pytorch_lightning.callbacks.early_stopping": ("EarlyStopping",),
    "pytorch_lightning.callbacks.model_checkpoint": ("ModelCheckpoint",),
    "pytorch_lightning.callbacks.timer": ("Timer",),
}
_DICTS = {
    "pytorch_lightning.utilities.parsing": ("AttributeDict",),
    "lightning_fabric.utilities.data": ("AttributeDict",),
    "lightning.fabric.utilities.data": ("AttributeDict",),
}


@contextmanager
def packages() -> Iterator[dict[str, type]]:
    """The stand-ins, importable while this lasts; classes by their whole paths."""
    classes, modules = {}, {}
    for rows, base in ((_PLAIN, object), (_DICTS, dict)):
        for path, names in rows.items():
            parts = path.split(".")
            for depth in range(1, len(parts) + 1):
                name = ".".join(parts[:depth])
                modules[name] = modules.get(name) or ModuleType(name)
            for name in names:
                made = type(name, (base,), {"__module__": path})
                setattr(modules[path], name, made)
                classes[f"{path}.{name}"] = made
    assert not sys.modules.keys() & modules
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for name in modules:
            del sys.modules[name]


def _made(kind: type, **attributes: Any) -> Any:
    value = kind.__new__(kind)
    vars(value).update(attributes)
    return value


def _config(classes: Mapping[str, type], value: Any, parent: Any = None, key: Any = None) -> Any:
    """A node of OmegaConf with everything below it; each knows its parent.

    A leaf's class is its key where that is one of its classes; else it takes any value.
    """
    facts = {"optional": True, "key": key, "flags": {}, "flags_root": False}
    facts["resolver_cache"] = defaultdict(dict)
    if not isinstance(value, (dict, list)):
        name = key if key in _NODES else "AnyNode"
        kind = Any if name == "AnyNode" else type(value)
        about = _made(classes["omegaconf.base.Metadata"], ref_type=kind, object_type=kind, **facts)
        node = classes[f"omegaconf.nodes.{name}"]
        return _made(node, _metadata=about, _parent=parent, _val=value)
    is_dict = isinstance(value, dict)
    about = _made(
        classes["omegaconf.base.ContainerMetadata"],
        ref_type=Any if parent is None else (Dict if is_dict else List),  # noqa: UP006
        object_type=type(value),
        key_type=Any,
        element_type=Any,
        **facts,
    )
    name = "omegaconf.dictconfig.DictConfig" if is_dict else "omegaconf.listconfig.ListConfig"
    node = _made(classes[name], _metadata=about, _parent=parent)
    rows = value.items() if is_dict else enumerate(value)
    content = {k: _config(classes, v, node, k) for k, v in rows}
    vars(node)["_content"] = content if is_dict else list(content.values())
    return node


_SETTINGS = {
    "base_learning_rate": 1e-4,
    "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
    "params": {"linear_start": 0.00085, "mult": [1, 2, 4, 4], "ucg": None, "on": True},
    "typed": {
        "BooleanNode": True,
        "BytesNode": b"a",
        "FloatNode": 0.5,
        "IntegerNode": 3,
        "InterpolationResultNode": "${target}",
        "PathNode": Path("logs"),
        "StringNode": "x",
    },
}


def runs(
    classes: Mapping[str, type], state: Mapping[str, torch.Tensor]
) -> dict[str, dict[str, Any]]:
    """Checkpoints of several versions and habits, each around this state dict."""
    checkpoint = classes["pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"]
    config = _config(classes, _SETTINGS)
    attributes = {
        path: kind(alpha=1, paths=[Path("a/b")])
        for path, kind in classes.items()
        if path.endswith("AttributeDict")
    }
    score = {
        "monitor": "val/loss_simple_ema",
        "best_model_score": torch.tensor(0.25),
        "current_score": np.float64(0.31),
        "best_model_path": Path("logs/run/epoch=000005.ckpt"),
        "dirpath": Path("/logs/run"),
        "last_model_path": "",
        "best_k_models": {Path("logs/run/epoch=000005.ckpt"): torch.tensor(0.25)},
    }
    moments = {
        number: {"step": 470000, "exp_avg": torch.ones_like(v), "exp_avg_sq": torch.zeros_like(v)}
        for number, v in enumerate(state.values())
    }
    common = {
        "epoch": 5,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": state,
        "optimizer_states": [
            {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}]}
        ],
        "lr_schedulers": [
            {"milestones": Counter({3: 1}), "_last_lr": [1e-4], "lr_lambdas": [None, {}]}
        ],
        "native_amp_scaling_state": {"scale": 65536.0, "_growth_tracker": 3},
    }
    stopping = classes["pytorch_lightning.callbacks.early_stopping.EarlyStopping"]
    timer = classes["pytorch_lightning.callbacks.timer.Timer"]
    arguments = argparse.Namespace(gpus="0,", logdir=Path("logs"), seed=np.int64(23), seen={1, 2})
    numbers = {
        "scalar": np.float32(3),
        "truth": np.bool_(True),
        "array": np.arange(6.0).reshape(2, 3),
        "type": np.dtype("f2"),
        "empty": np.zeros(0, "i8"),
    }
    precisions = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    kinds = [float, int, str, bool, bytes, dict, list, set, frozenset, tuple, complex]
    typing = [Any, Dict, List, Optional, Tuple, Union]  # noqa: UP006
    return {
        "1.4": common | {"callbacks": {checkpoint: score, stopping: {"wait": 2}, timer: {}}},
        "1.6": common
        | {
            "callbacks": {"ModelCheckpoint{'monitor': 'val/loss'}": score},
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 6}}}},
            "hparams_name": "config",
            "hparams_type": type(config),
            "hyper_parameters": config,
        },
        "settings in a dict": common | {"hyper_parameters": {"unet_config": config, "x": config}},
        "namespace": common | {"hyper_parameters": vars(arguments), "args": arguments},
        "attributes": common | {"hyper_parameters": attributes},
        "numpy": common | {"hyper_parameters": numbers},
        "containers": common
        | {
            "hyper_parameters": {
                "queue": deque([1, Path("x"), torch.zeros(2)], maxlen=9),
                "default": defaultdict(list, {("a", 1): [2]}),
                "sets": [{"a"}, frozenset("b"), set(), Counter("aab")],
                "ordered": OrderedDict([(Path("x"), 1)]),
                "paths": [PureWindowsPath("c:/x"), PurePosixPath("/x"), Path("/x")],
                "bytes": [b"", b"\xff\0a"],
                "device": torch.device("cuda", 0),
                "types": [*precisions, *kinds, *typing],
            }
        },
    }


class _OldNumpy(pickle._Pickler):
    """As numpy before 2.0 called its modules."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if not getattr(obj, "__module__", "").startswith("numpy._core."):
            super().save_global(obj, name)
            return
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{obj.__name__}\n".encode())
        self.memoize(obj)


OLD_NUMPY: Any = SimpleNamespace(Pickler=_OldNumpy, dumps=pickle.dumps, __name__="pickle")


def digest(name: str, dtype: str, shape: tuple[int, ...], raw: bytes) -> str:
    """A tensor in short."""
    return f"{name} {dtype} {shape} {hashlib.sha256(raw).hexdigest()}"


def main() -> None:
    """Print what torch reads from each of the files, which may run whatever they say."""
    found = {}
    with packages():
        for path in sys.argv[1:]:
            state = torch.load(path, weights_only=False)["state_dict"]
            found[path] = [
                digest(
                    name,
                    str(tensor.dtype).removeprefix("torch."),
                    tuple(tensor.shape),
                    tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes(),
                )
                for name, tensor in state.items()
            ]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
