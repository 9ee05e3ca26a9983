"""What other people's code gave for a case, kept on disk; never anything that ours gave.

Such a result is a function of the versions of the libraries, the processor and the settings that
they run under, the source of this folder, the model's files, and the case. All of these make its
key, so that whatever changes makes a new one. `IPA_FRESH_JUDGE=1` computes everything anew.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ipa import demo
from oracle.digest import digest

PACKAGES = (
    *("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "scipy"),
    *("tokenizers", "safetensors", "pillow", "huggingface-hub"),
    "DeepCache",
)
"""Of whom a judge is made."""

SETTINGS = re.compile(r"ATEN_|BLAS_|DNNL_|GOMP_|KMP_|MKL_|OMP_|ONEDNN_|OPENBLAS_|PYTORCH_|TORCH_")
"""What begins so in the environment may change bits."""

_MOST = 6
"""States of libraries and sources of which results are kept: the last ones used."""


def root() -> Path:
    """Where results lie: where the system keeps what programs may lose."""
    if own := os.environ.get("XDG_CACHE_HOME"):
        return Path(own) / "ipa-mlx-tests"
    return (
        Path.home()
        / ("Library/Caches" if sys.platform == "darwin" else ".cache")
        / ("ipa-mlx-tests")
    )


def versions() -> dict[str, str | None]:
    """Of the judge's packages; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def settings() -> dict[str, Any]:
    """The processor, the threads, and what the user has set of them."""
    import torch

    return {
        "machine": (platform.system(), platform.machine(), torch.backends.cpu.get_cpu_capability()),
        "threads": (torch.get_num_threads(), torch.__config__.parallel_info()),
        "build": torch.__config__.show(),
        "precision": torch.get_float32_matmul_precision(),
        "environment": {n: v for n, v in sorted(os.environ.items()) if SETTINGS.match(n)},
    }


def sources() -> list[Path]:
    """All of this folder, what silences the libraries, and the pictures that they are shown."""
    from ipa_torch.files import weights as loading

    here = [path for path in Path(__file__).parent.rglob("*") if path.suffix != ".pyc"]
    return [*here, Path(loading.__file__), *demo.references()]


def files(paths: Iterable[Path]) -> dict[str, str]:
    """The hash of each file below the paths, by its name there."""
    found: dict[str, str] = {}
    for number, path in enumerate(paths):
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            if file.is_file():
                stat = file.stat()
                name = f"{number}/{file.relative_to(path.parent).as_posix()}"
                found[name] = _hashed(file, stat.st_mtime_ns, stat.st_size)
    return found


@functools.cache
def _hashed(file: Path, *_: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@functools.cache
def _state() -> str:
    """Of everything but the model and the case; a process changes none of it while it runs."""
    return digest([versions(), settings(), files(sorted(sources()))])


@dataclass(frozen=True)
class Judged:
    """Results in a folder.

    Attributes:
        state: Of all that results of this folder have in common: its name.
        fresh: Computes everything anew, and keeps that.
    """

    root: Path
    state: str
    fresh: bool = False

    def get(self, judge: Callable[[], np.ndarray], case: Any, models: Iterable[Path]) -> np.ndarray:
        """What `judge` gives, or gave once in this state of that case with these files."""
        path = self.root / self.state / digest([case, files(models)])
        found = None if self.fresh else _read(path)
        if found is None:
            found = judge()
            with contextlib.suppress(OSError):  # a full disk, a home that cannot be written
                self._write(path, found)
        return found

    def _write(self, path: Path, array: np.ndarray) -> None:
        """Whole or not at all; of other states the oldest go."""
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            states = sorted(self.root.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
            for old in states[_MOST:]:
                shutil.rmtree(old, ignore_errors=True)
        packed = io.BytesIO()
        np.save(packed, array, allow_pickle=False)
        held = packed.getvalue()
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(held).digest() + held)
        Path(file.name).replace(path)


def _read(path: Path) -> np.ndarray | None:
    """None where there is nothing whole."""
    try:
        held = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(held[32:]).digest() != held[:32]:
        return None
    return np.load(io.BytesIO(held[32:]), allow_pickle=False)


def judged(environment: Mapping[str, str] = os.environ) -> Judged:
    """Of this machine as it is now."""
    return Judged(root(), _state(), fresh=environment.get("IPA_FRESH_JUDGE") == "1")
