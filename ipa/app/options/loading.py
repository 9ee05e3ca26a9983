"""A model opened as a command's options say, with all that is loaded beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ipa import demo
from ipa.app.terminal import warn
from ipa.model.folder import ModelFolder
from ipa.pipeline.loading import choose_backend, load
from ipa.pipeline.pipeline import Pipeline
from ipa.pipeline.plan import make_plan
from ipa.pipeline.snapshot import Snapshot
from ipa.prepare.scaling.lambdas import lambda_table
from ipa.prepare.scaling.unusual import unusual_numbers
from ipa.prepare.text.prompts import open_tokenizers
from ipa.request.control import Control
from ipa.request.request import Request
from ipa.request.scales import Scale
from ipa.sources.models import resolve_model
from ipa.sources.vae import resolve_vae

from .autoencoder import vae_memory
from .controls import load_controlnets
from .faces import check_finding, face_options
from .ignoring import Ignored, named_source
from .loras import load_loras, parse_loras
from .parsing import one_each, parse_budget, parse_scale
from .texts import load_inversions

_SOURCES = {
    "adapter": "adapters",
    "controlnet": "controlnets",
    "lora": "loras",
    "textual_inversion": "textual_inversions",
}
"""The options of what is loaded beside a model, and a request file's names for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """The options of which model a command opens, where, and with what: named as parameters."""

    model: str = "demo"
    vae: str | None = None
    vae_memory: str | None = None
    vae_tiling: bool | None = None
    vae_tile: int | None = None
    preview_decoder: str | None = None
    ignore: Sequence[str] | None = None
    backend: str | None = None
    dtype: str | None = None
    device: str | None = None
    quantize: int | None = None
    memory_budget: str | None = None
    revision: str | None = None
    variant: str | None = None
    offline: bool = False
    scale: str = "1.0"
    adapter: Sequence[str] | None = None
    adapter_kind: Sequence[str] | None = None
    image_encoder: Sequence[str] | None = None
    find_faces: bool = False
    lora: Sequence[str] | None = None
    lora_folder: Path | None = None
    controlnet: Sequence[str] | None = None
    textual_inversion: Sequence[str] | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> ModelOptions:
        """Take them from a command's parameters; those that it does not have stay as usual."""
        names = [field.name for field in fields(cls) if field.name in parameters]
        return cls(**{name: parameters[name] for name in names})

    def beside(self, sources: Mapping[str, Sequence[str]]) -> ModelOptions:
        """The same, with what a request file names where the command line names nothing."""
        named: dict[str, Any] = {
            option: getattr(self, option) or sources.get(key) for option, key in _SOURCES.items()
        }
        return replace(self, **named)

    def as_made(self, run: Mapping[str, Any]) -> ModelOptions:
        """The same, as the run went that a request file describes, where nothing else was typed.

        Precision and bits are those of its backend alone; another is warned of.
        """
        given: dict[str, Any] = {}
        if run.get("vae_memory") is not None and self._is_bare("vae_memory", "vae_tiling"):
            given["vae_memory"] = str(run["vae_memory"])
        wanted = {name: run[name] for name in ("dtype", "quantize") if run.get(name) is not None}
        if run.get("backend") == choose_backend(self.backend):
            given |= {name: value for name, value in wanted.items() if self._is_bare(name)}
        elif wanted.get("dtype", "float32") != "float32" or "quantize" in wanted:
            told = ", ".join(f"{name} {value}" for name, value in wanted.items())
            warn([f"the picture was made by {run.get('backend')} with {told}: not taken here"])
        return replace(self, **given)

    def _is_bare(self, *names: str) -> bool:
        return all(getattr(self, name) is None for name in names)

    def on(
        self, backend: str, dtype: str, device: str | None, quantize: int | None = None
    ) -> ModelOptions:
        """The same on another backend."""
        return replace(self, backend=backend, dtype=dtype, device=device, quantize=quantize)

    @property
    def default_scale(self) -> Scale:
        """The default weight of image prompts. Raises RequestError if it is none."""
        return parse_scale(self.scale)

    def folder(self) -> ModelFolder:
        """The model's files, of which no weight is read; what else is wrong is told before.

        Raises:
            BackendError: The backend is unknown or not installed.
            CheckpointError: The model is missing, damaged or not supported.
            RequestError: An option is wrong.
        """
        choose_backend(self.backend)
        parse_scale(self.scale)
        parse_loras(self.lora)
        parse_budget(self.memory_budget)
        folder = resolve_model(
            self.model, revision=self.revision, variant=self.variant, offline=self.offline
        )
        return resolve_vae(folder, self.vae, offline=self.offline)

    def open(
        self, folder: ModelFolder, controls: Sequence[Control] = (), *, lazy: bool = False
    ) -> Pipeline:
        """Open a model of `folder`, and load what the options name beside it.

        Args:
            folder: The files.
            controls: Those of the call, which say what ControlNets are for.
            lazy: Read no weights before they are used.

        Raises:
            CheckpointError: A file is damaged, or made for another model.
            RequestError: An option is wrong, or has no effect.
        """
        ignored = Ignored.of(self.ignore, self._beside())
        pipe = load(
            folder,
            backend=self.backend,
            dtype=self.dtype,
            device=self.device,
            quantize=self.quantize,
            ignore=ignored.of_model,
            lazy=lazy,
            memory_budget=parse_budget(self.memory_budget),
        )
        pipe.vae_memory = vae_memory(self.vae_memory, self.vae_tiling, self.vae_tile)
        if self.preview_decoder is not None:
            pipe.load_preview_decoder(self.preview_decoder, offline=self.offline)
        pipe.lora_folder = self.lora_folder
        load_loras(pipe, parse_loras(self.lora), ignored, offline=self.offline)
        self._load_adapters(pipe, ignored)
        load_controlnets(pipe, self.controlnet or (), controls, ignored, offline=self.offline)
        load_inversions(pipe, self.textual_inversion, offline=self.offline)
        return pipe

    def _beside(self) -> list[tuple[str | None, str]]:
        """The names and sources of what is loaded beside the model, as `Ignored` knows them."""
        loras = [(choice.name, choice.source) for choice in parse_loras(self.lora)]
        return [*loras, *map(named_source, [*(self.adapter or ()), *(self.controlnet or ())])]

    def _load_adapters(self, pipe: Pipeline, ignored: Ignored) -> None:
        """Load [NAME=]SOURCE for each; the demo model brings its own where none is named.

        SOURCE is a file, a short name, or owner/name/folder/file.safetensors on the hub.
        """
        adapters, scale = self.adapter or (), self.default_scale
        kinds = one_each("--adapter-kind", self.adapter_kind or (), len(adapters), "-a")
        encoders = one_each("--image-encoder", self.image_encoder or (), len(adapters), "-a")
        if not adapters and pipe.info()["model"] == "demo":
            pipe.load_ip_adapter(demo.adapter("base"), name="base", scale=scale)
        for text, kind, encoder in zip(adapters, kinds, encoders, strict=True):
            name, source = named_source(text)
            options = face_options(kind, find=self.find_faces)
            options["ignore"] = ignored.of_file(name, source)
            pipe.load_ip_adapter(
                source,
                name=name,
                scale=scale,
                image_encoder_folder=encoder or "image_encoder",
                offline=self.offline,
                **options,
            )
        if self.find_faces:
            check_finding(pipe)


def check_arguments(arguments: dict[str, Any], model: ModelFolder, scale: Scale) -> None:
    """Plan the call without adapters: what cannot be honoured is told before weights are read.

    Raises:
        RequestError: An argument is wrong for this model.
    """
    request = Request(**arguments)
    # What is loaded is not known yet.
    bare = replace(request, image_prompts=(), controls=(), loras=None)
    plan = make_plan(bare, Snapshot(model=model, tokenizers=open_tokenizers(model)))
    warn(unusual_numbers(request, {"": scale}))
    for prompt in request.image_prompts:
        lambda_table(prompt, scale, model.sites, len(plan.schedule.steps))
