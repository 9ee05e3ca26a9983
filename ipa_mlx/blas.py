"""A fast BLAS for MLX's Linux CPU wheel, which carries the slow reference implementation.

libmlx looks `cblas_sgemm` up by name, so a library that exports it wins if it is loaded first with
global symbols: OpenBLAS (Debian: libopenblas0), MKL (PyPI: mkl), or a bridge to the OpenBLAS inside
numpy's wheel, which `build` compiles where there is a C compiler. Measured: 4 against 30 to 200
GFLOP/s. Nothing depends on it, and on a Mac nothing happens: MLX uses Metal and Accelerate there.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from ipa.errors import BackendError

ADVICE = "the wheel's own, slow; run `ipa-mlx accelerate`, or install OpenBLAS (libopenblas0)"

_NAMES = ("libopenblas.so.0", "libopenblas.so", "libmkl_rt.so.2", "libmkl_rt.so.3")
_BRIDGE = "libipa_mlx_blas.so"


@functools.cache
def preload() -> str | None:
    """Load an installed fast BLAS before MLX. Returns its name, or None where there is none."""
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return None
    environment = Path(sys.prefix, "lib")
    libraries = [*sorted(environment.glob("libmkl_rt.so*")), environment / _BRIDGE]
    for name in (*_NAMES, *map(str, libraries)):
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        if hasattr(library, "cblas_sgemm"):
            return name
    return None


def build() -> str:
    """Compile the bridge to numpy's OpenBLAS into this environment's lib folder.

    Returns:
        What was done, in words.

    Raises:
        BackendError: There is no C compiler, or numpy carries no OpenBLAS.
    """
    if sys.platform != "linux":
        return "nothing to do: only MLX's Linux CPU wheel has a slow BLAS"
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise BackendError(
            "no C compiler was found", remedy="install gcc, or Debian's libopenblas0"
        )
    files = distribution("numpy").files or ()
    library = next((Path(str(f.locate())) for f in files if "scipy_openblas64_" in f.name), None)
    if library is None:
        raise BackendError("this numpy carries no OpenBLAS", remedy="install Debian's libopenblas0")
    target = Path(sys.prefix, "lib", _BRIDGE)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder, _BRIDGE)
        source = Path(__file__).with_name("blas_bridge.c")
        link = [f"-L{library.parent}", f"-l:{library.name}", f"-Wl,-rpath,{library.parent}"]
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(built), str(source), *link]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BackendError("the bridge did not compile", found=done.stderr.strip()[:300])
        built.replace(target)
    return f"built {target}"
