"""Writing a model or one of its components: ready for MLX, or back in PyTorch's layout."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ipa.model.files import STEMS
from ipa.model.folder import ModelFolder
from ipa.model.quantization import Quantization

from ..containers.atomic import appearing, check_space, require_new
from ..containers.safetensors_file import nbytes, write_safetensors
from ..reading.component_file import Config, open_component
from ..reading.components import Component
from ..reading.model import read_model
from ..tables.converted import Converted
from .configs import copy_configs, write_config
from .file import Counter, Progress
from .manifest import Sources, write_manifest
from .rows import METADATA, DType, Layout, marks, require_quantized, rows, wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    """How to write: precision, layout, bits."""

    dtype: DType | None
    layout: Layout
    how: Quantization | None
    on_progress: Progress | None


def convert_model(
    source: ModelFolder,
    target: Path,
    *,
    dtype: DType | None = None,
    layout: Layout = "mlx",
    quantize: int | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Write a model folder whose weights MLX loads without any change, or the way back.

    The folder appears complete or not at all: it is built beside the target and then renamed. One
    tensor is in memory at a time. conversion.json inside says what it was made from.

    Args:
        source: The original, or a converted one in another precision.
        target: The folder to make.
        dtype: Precision of the weights; None keeps every tensor's own.
        layout: "mlx", or "diffusers" for files that diffusers and transformers load: bit for bit
            the original's values where no precision was lost.
        quantize: 4 or 8 bits for the matrices of `quantized_layers`, in layout "mlx" alone.
        on_progress: Called after every tensor.

    Returns:
        The target.

    Raises:
        CheckpointError: The target exists, the disk is too small, or the source is not in order,
            is quantised already, or changes meanwhile.
        RequestError: No such quantisation, or not in this layout or of this model.
    """
    how = wanted(quantize, layout)
    require_new(target)
    sources, converted = Sources.marked(lambda: read_model(source))
    parts = {f"{name}/{STEMS[name]}": part for name, part in converted.items()}
    options = _Options(dtype=dtype, layout=layout, how=how, on_progress=on_progress)
    _write(target, parts, sources, lambda folder: copy_configs(source, folder, converted), options)
    return target


def convert_component(
    source: Path,
    target: Path,
    config: Config | None = None,
    *,
    dtype: DType | None = None,
    layout: Layout = "mlx",
    quantize: int | None = None,
    ignore: Sequence[str] | None = None,
    component: Component | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Write one component alone: a folder with config.json and the weights.

    Args:
        source: Its folder, or a file.
        target: The folder to make.
        config: For a file: its config.json; see `lone.open_component`.
        dtype: Precision of the weights; None keeps every tensor's own.
        layout: "mlx", or "diffusers".
        quantize: 4 or 8 bits, in layout "mlx" alone.
        ignore: Names of tensors that the component does not know and that may be left out.
        component: Which it is, where a file holds more than one; None: the file tells.
        on_progress: Called after every tensor.

    Returns:
        The target.

    Raises:
        CheckpointError: See `convert_model`.
        RequestError: See `convert_model`.
    """
    how = wanted(quantize, layout)
    require_new(target)
    component_file = open_component(source, config, ignore, component)
    stem = STEMS[component_file.component]
    sources, parts = Sources.marked(
        lambda: {stem: open_component(source, config, ignore, component).converted}
    )
    options = _Options(dtype=dtype, layout=layout, how=how, on_progress=on_progress)
    _write(
        target, parts, sources, lambda folder: write_config(component_file.config, folder), options
    )
    return target


def _write(
    target: Path,
    converted: Mapping[str, Converted],
    sources: Sources,
    write_configs: Callable[[Path], None],
    options: _Options,
) -> None:
    """Write components by their paths in the folder, without suffix."""
    for original in converted.values():
        original.require_precise()
    parts = {
        path: tuple(rows(part, options.dtype, options.layout, options.how))
        for path, part in converted.items()
    }
    require_quantized(parts.values(), options.how)
    # Hashing takes as long as writing, on the other core.
    with appearing(target) as folder, ThreadPoolExecutor(1) as pool, sources.unchanged():
        hashes = pool.submit(sources.hashes)
        total = sum(nbytes(row.dtype, row.shape) for part in parts.values() for row in part)
        check_space(folder, total)
        write_configs(folder)
        count = Counter(total, options.on_progress)
        for path, part in parts.items():
            file = folder / f"{path}.safetensors"
            metadata = {**METADATA[options.layout], **marks(part)}
            write_safetensors(file, part, metadata, count.add)
        write_manifest(
            folder,
            sources,
            hashes.result(),
            layout=options.layout,
            dtypes={path: Counts(row.dtype for row in part) for path, part in parts.items()},
            how=options.how,
        )
