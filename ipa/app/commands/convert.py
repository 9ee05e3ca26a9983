"""`ipa-mlx convert`: any public file as a folder or file for MLX."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer
from rich.filesize import decimal

from ipa.app.options.model import IgnoreOption, Json, Offline, Quantize, Revision, Variant
from ipa.app.terminal import bytes_bar, explained, print_json, say
from ipa.errors import RequestError
from ipa.model.files import read_json
from ipa.model.ignoring import Ignore
from ipa.model.left_out import LeftOut
from ipa.model.preprocessor import ClipPreprocessor
from ipa.prepare.text.prompts import open_tokenizers
from ipa.sources.base_configs import adapter_sites, component_config, lora_networks
from ipa.sources.encoders import preprocessing
from ipa.sources.hub import hub_name
from ipa.sources.model_folder import open_model_folder
from ipa.sources.models import resolve_file, resolve_model

if TYPE_CHECKING:
    from ipa.model.folder import ModelFolder
    from ipa_convert import Kind
    from ipa_convert.writing.rows import DType, Layout


_DTYPES = ("float32", "float16", "bfloat16")


_LAYOUTS = ("mlx", "diffusers")


_SUFFIX = ".safetensors"


_RECORD, _LEFT_OUT = "conversion.json", "ipa_left_out"  # where a conversion keeps them


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionOptions:
    """What `ipa-mlx convert` takes beside source and target; see its help."""

    dtype: str | None = None
    layout: str = "mlx"
    quantize: int | None = None
    verify: bool = False
    base: str | None = None
    config: Path | None = None
    prediction_type: str | None = None
    ema: bool = False
    kind: str | None = None
    ignore: tuple[str, ...] = ()
    revision: str | None = None
    variant: str | None = None
    offline: bool = False

    @property
    def precision(self) -> DType | None:
        """The precision of the weights."""
        return cast("DType | None", self.dtype)

    @property
    def order(self) -> Layout:
        """The layout: names and axes."""
        return cast("Layout", self.layout)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """The outcome of a conversion: what was written.

    Attributes:
        kind: "model", "adapter", "lora", or the component.
        target: The folder, or the file of an adapter or a LoRA.
        bytes: Of weights.
        verified: How many tensors were read again and compared; None if that was not asked for.
        notes: What was decided that the source does not tell.
    """

    kind: str
    target: Path
    bytes: int
    verified: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Written:
    verified: int | None
    notes: tuple[str, ...] = ()


def run_conversion(source: str, target: Path, options: ConversionOptions) -> Conversion:
    """Convert with a bar, and compare what was written with its source if that is asked for.

    Args:
        source: A model by any name, or a path to a component, an adapter or a LoRA.
        target: The folder to make; for an adapter or a LoRA the .safetensors file.
        options: The rest.

    Raises:
        CheckpointError: See `ipa_convert`'s functions.
        RequestError: An option has no such value, or does not go with what the source is.
    """
    import ipa_convert

    _check_choice("dtype", options.dtype, (None, *_DTYPES))
    _check_choice("layout", options.layout, _LAYOUTS)
    path, named = Path(source).expanduser(), hub_name(source)
    if named is not None and named.path:
        path = resolve_file(source, revision=options.revision, offline=options.offline)
        source = str(path)
    kind: Kind = ipa_convert.kind_of(path) if path.exists() else "model"
    if options.kind == _IN_A_MODEL and kind in ("model", _IN_A_MODEL):
        kind = _IN_A_MODEL
    _check_options(kind, replace(options, kind=None) if kind == _IN_A_MODEL else options)
    write = _WRITERS.get(kind, _component)
    if write in _TO_FILES and target.suffix != _SUFFIX:
        raise RequestError(
            f"a {kind} becomes one file",
            found=str(target),
            remedy=f"give a name that ends in {_SUFFIX}",
        )
    done = write(source, target, options)
    files = [target] if target.is_file() else target.glob(f"**/*{_SUFFIX}")
    return Conversion(
        kind=kind,
        target=target,
        bytes=sum(file.stat().st_size for file in files),
        verified=done.verified,
        notes=(*done.notes, *_left_out(source, target)),
    )


def _left_out(source: str, target: Path) -> list[str]:
    """The tensors that a conversion left out, from its record, in words."""
    if target.is_file():
        from ipa_convert.containers.safetensors_file import open_safetensors

        counts = json.loads(open_safetensors(target).metadata.get(_LEFT_OUT, "{}"))
        rows = [f"{name} ({count})" if count > 1 else name for name, count in counts.items()]
        return [f"left out of {source}, as no part of it: {', '.join(rows)}"] if rows else []
    dropped = read_json(target / _RECORD).get("dropped", {})
    return LeftOut.of(source, dropped).warnings()


def _model(source: str, target: Path, options: ConversionOptions) -> _Written:
    import ipa_convert

    model = resolve_model(
        source,
        revision=options.revision,
        variant=options.variant,
        offline=options.offline,
        config=options.config,
        prediction_type=options.prediction_type,
        ema=options.ema,
    )
    model = replace(model, ignore=Ignore.of(options.ignore))
    _check_opens(model)
    write = partial(ipa_convert.convert_model, model, target, **_writing(options))

    def verify(**more: Any) -> int:
        written = open_model_folder(target, name=str(target))
        _check_opens(written)
        return ipa_convert.verify_model(model, written, **more)

    return _run(write, verify, options, model.notes)


def _check_opens(model: ModelFolder) -> None:
    """Raise CheckpointError for what would stop a model from loading, other than its weights."""
    open_tokenizers(model)
    if model.image_encoder is not None:
        folder = model.path / "image_encoder"
        ClipPreprocessor.from_config(
            preprocessing(folder, model.path, model.image_encoder.image_size)
        )


def _component(source: str, target: Path, options: ConversionOptions) -> _Written:
    import ipa_convert

    path = Path(source).expanduser()
    component: Any = options.kind or ipa_convert.kind_of(path)
    config = component_config(path, component, base=options.base, folder=options.config)
    how: Any = {"ignore": options.ignore, "component": component}
    write = partial(ipa_convert.convert_component, path, target, config, **how, **_writing(options))
    return _run(write, partial(ipa_convert.verify_component, path, target, config, **how), options)


def _adapter(source: str, target: Path, options: ConversionOptions) -> _Written:
    import ipa_convert

    path = Path(source).expanduser()
    sites = adapter_sites(options.config) if options.config else None
    write = partial(
        ipa_convert.convert_adapter,
        path,
        target,
        dtype=options.precision,
        layout="mlx" if options.layout == "mlx" else "original",
        sites=sites,
        kind=options.kind,
        ignore=options.ignore,
    )
    verify = partial(ipa_convert.verify_adapter, path, target, sites, ignore=options.ignore)
    return _run(write, verify, options)


def _lora(source: str, target: Path, options: ConversionOptions) -> _Written:
    import ipa_convert

    path = Path(source).expanduser()
    targets = ipa_convert.LoraTargets(**lora_networks(path, options.base))
    write = partial(
        ipa_convert.convert_lora,
        path,
        target,
        targets,
        dtype=options.precision,
        layout=options.order,
        ignore=options.ignore,
    )
    verify = partial(ipa_convert.verify_lora, path, target, targets, ignore=options.ignore)
    return _run(write, verify, options)


def _writing(options: ConversionOptions) -> dict[str, Any]:
    return {
        "dtype": options.precision,
        "layout": options.order,
        "quantize": options.quantize,
    }


def _run(
    write: Callable[..., Path],
    verify: Callable[..., int],
    options: ConversionOptions,
    notes: tuple[str, ...] = (),
) -> _Written:
    """Write, and verify if asked, each with a progress bar."""
    with bytes_bar("converting") as report:
        write(on_progress=report)
    if not options.verify:
        return _Written(None, notes)
    with bytes_bar("verifying") as report:
        return _Written(verify(dtype=options.precision, on_progress=report), notes)


_IN_A_MODEL: Final = "controlnet"
"""The component that may lie in the file of a whole model, as a --kind of its own."""


_Writer = Callable[[str, Path, ConversionOptions], _Written]


_WRITERS: Mapping[str, _Writer] = {"model": _model, "adapter": _adapter, "lora": _lora}


_TO_FILES = (_adapter, _lora)


# Options that only some sources have a use for.
_USES: Mapping[str, frozenset[str]] = {
    "model": frozenset({"config", "prediction_type", "ema", "quantize", "variant", "ignore"}),
    "adapter": frozenset({"kind", "config", "ignore"}),
    "lora": frozenset({"base", "ignore"}),
}


_COMPONENT_USES = frozenset({"base", "config", "quantize", "ignore"})


def _check_options(kind: str, options: ConversionOptions) -> None:
    """Raise RequestError for an option that would change nothing."""
    uses = _USES.get(kind, _COMPONENT_USES)
    every = frozenset().union(*_USES.values(), _COMPONENT_USES)
    spare = sorted(name for name in every - uses if getattr(options, name))
    if spare:
        names = ", ".join("--" + name.replace("_", "-") for name in spare)
        raise RequestError(
            f"{names} cannot be used with this source",
            found=f"a {kind}",
            remedy="leave it out",
        )


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise RequestError(
            f"unknown {name}", found=repr(value), remedy=", ".join(str(k) for k in choices if k)
        )


def convert(  # one parameter per option
    source: Annotated[
        str,
        typer.Argument(help="A model (folder, file, hub id, demo), component, adapter or LoRA."),
    ],
    target: Annotated[
        Path, typer.Argument(help="The folder to make; for an adapter or a LoRA the file.")
    ],
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16", show_default="as stored")
    ] = None,
    to: Annotated[str, typer.Option(help="mlx, or diffusers for the way back.")] = "mlx",
    quantize: Quantize = None,
    verify: Annotated[
        bool, typer.Option(help="Open the result, read both again, compare every value.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(help="sd15, sd2 or sdxl, for a VAE or a LoRA that does not tell."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="For a file: a folder with the configs to take.")
    ] = None,
    prediction_type: Annotated[
        str | None, typer.Option(help="For a file that does not tell: epsilon or v_prediction.")
    ] = None,
    ema: Annotated[bool, typer.Option(help="A training's averaged weights of the UNet.")] = False,
    kind: Annotated[
        str | None,
        typer.Option(
            help="For an adapter that does not tell, such as faceid-plusv2; or controlnet, that "
            "of a whole model's file."
        ),
    ] = None,
    ignore: IgnoreOption = None,
    revision: Revision = None,
    variant: Variant = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Write anything as MLX loads it, whole or not at all; or back in PyTorch's layout."""
    options = ConversionOptions(
        dtype=dtype,
        layout=to,
        quantize=quantize,
        verify=verify,
        base=base,
        config=config,
        prediction_type=prediction_type,
        ema=ema,
        kind=kind,
        ignore=tuple(ignore or ()),
        revision=revision,
        variant=variant,
        offline=offline,
    )
    with explained():
        done = run_conversion(source, target, options)
    if as_json:
        print_json({**asdict(done), "target": str(done.target.resolve())})
        return
    for note in done.notes:
        say("[yellow]note:[/]", note)
    proof = "" if done.verified is None else f", {done.verified:,} tensors verified"
    typer.echo(f"{done.target} ({done.kind}, {decimal(done.bytes)}{proof})")
