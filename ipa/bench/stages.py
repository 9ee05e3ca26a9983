"""The stages of our backends as functions that run once, through the interface of all backends."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ipa.arrays import Floats
from ipa.backend.protocol import Backend, Branch
from ipa.backend.schedule import Step
from ipa.backend.text import Sizes, TextStates
from ipa.model.folder import AdapterFiles, ModelFolder
from ipa.pipeline.pipeline import Pipeline
from ipa.request.image_prompt import ImagePrompt

from . import public
from .arithmetic import TOKENS
from .cases import VARIANTS, Case, Group
from .work import parts

Run = Callable[[], object]

GUIDANCE, _SCALE = 7.5, 0.8
_STEP = Step(timestep=501.0, input_scale=1.0, denoised_x=1.0, denoised_output=1.0, x_x=1.0)
_NO_FILE = Path(__file__)  # of a random adapter nothing is read, but a name must lead somewhere


def part(framework: str, name: str) -> Any:
    """A module of what is measured with a framework ("mlx", "torch"), which is loaded."""
    return importlib.import_module(f"ipa_{framework}.bench.{name}")


def open_ours(group: Group, model: ModelFolder) -> tuple[Backend, list[Run]]:
    """The backend of a group's cases, and a function for each case."""
    first = group[0]
    options = {"dtype": first.dtype, "device": first.device}
    if first.model is None:
        needed = {name for case in group for name in parts(case)}
        backend = part(first.framework, "random_model").open_random(model, needed, **options)
    else:
        given = {name: value for name, value in options.items() if value is not None}
        backend = importlib.import_module(f"ipa_{first.framework}").open_backend(model, **given)
    kinds = {case.adapter for case in group}
    structures = {k: (public.adapter(k, model), public.image_encoder(k, model)) for k in kinds}
    models = part(first.framework, "random_model")
    models.attach(backend, structures)
    if first.program in VARIANTS:
        models.vary(backend, first.program)
    stages = _Stages(backend, first.framework)
    return backend, [stages.open(case) for case in group]


class _Stages:
    """The stages of a backend."""

    def __init__(self, backend: Backend, framework: str) -> None:
        self.backend, self.machine = backend, part(framework, "machine")
        self.draw = np.random.default_rng(0)

    def open(self, case: Case) -> Run:
        """The function of a case."""
        makers: Mapping[str, Callable[[Case], Run]] = {
            "text": self._text,
            "image": self._image,
            "condition": self._condition,
            "step": self._step,
            "decode": self._decode,
            "encode": self._encode,
            "generation": self._generation,
        }
        run, wait = makers[case.stage](case), self.machine.wait

        def once() -> None:
            run()
            wait(case.device)

        return once

    def _text(self, case: Case) -> Run:
        towers = 2 if self.backend.model.is_xl else 1
        ids = np.zeros((towers, TOKENS), np.int32)
        return lambda: self.backend.encode_text(ids)

    def _image(self, case: Case) -> Run:
        (name,) = self._adapters(case, count=1)
        side = public.image_encoder(case.adapter, self.backend.model).image_size
        pixels = self._noise(case.batch, 3, side, side)
        return lambda: self.backend.encode_images(name, pixels)

    def _condition(self, case: Case) -> Run:
        names = self._adapters(case, count=case.adapters)
        text, features = self._text_states(), self._features(case)

        def run() -> Any:
            tokens = [self.backend.project(name, *features) for name in names]
            branches = [Branch(name, made) for name, made in zip(names, tokens, strict=True)]
            return self.backend.condition(text, branches, guided=True, sizes=self._sizes(case))

        return run

    def _step(self, case: Case) -> Run:
        backend, conditioning = self.backend, self._condition(case)()
        latents = backend.from_numpy(self._latents(case))
        scales = [(_SCALE,) * len(backend.model.sites)] * case.adapters

        def run() -> None:
            output = backend.predict(latents, _STEP, conditioning, scales)
            backend.advance(_STEP, latents, backend.guide(output, GUIDANCE), (), None)

        return run

    def _decode(self, case: Case) -> Run:
        latents = self.backend.from_numpy(self._latents(case))
        return lambda: self.backend.decode(latents)

    def _encode(self, case: Case) -> Run:
        channels = self.backend.model.vae.in_channels
        pixels = self._noise(case.batch, channels, case.height, case.width).clip(-1, 1)
        return lambda: self.backend.encode(pixels)

    def _generation(self, case: Case) -> Run:
        pipe, picture = Pipeline(self.backend), Image.new("RGB", (256, 256), (90, 120, 200))
        names = [f"{case.adapter}{number}" for number in range(case.adapters)]
        for name in names:
            pipe.load_ip_adapter(_NO_FILE, name=name, kind=case.adapter)
        prompts = [ImagePrompt(picture, adapter=name, scale=_SCALE) for name in names]
        return lambda: pipe(
            "a star",
            image_prompts=prompts,
            num_inference_steps=case.steps,
            num_images=case.batch,
            guidance_scale=GUIDANCE,
            width=case.width,
            height=case.height,
            seed=0,
        )

    def _adapters(self, case: Case, count: int) -> list[str]:
        names = [f"{case.adapter}{number}" for number in range(count)]
        for name in names:
            files = AdapterFiles(name=name, weights=_NO_FILE, image_encoder=None, kind=case.adapter)
            self.backend.load_adapter(name, files)
        return names

    def _features(self, case: Case) -> tuple[Floats, Floats]:
        """Features of a picture, and of none."""
        spec = public.adapter(case.adapter, self.backend.model)
        states = public.image_encoder(case.adapter, self.backend.model).tokens
        rows = () if spec.feature == "embedding" else (states,)
        picture, none = (self._noise(1, *rows, spec.feature_width) for _ in range(2))
        return picture, none

    def _text_states(self) -> list[TextStates]:
        """The negative prompt's and the prompt's, drawn: the text encoders are not needed."""
        unet = self.backend.model.unet
        states = self.machine.tensor(self._noise(1, TOKENS, unet.context_width), self.backend)
        if unet.addition is None:
            return [TextStates(states)] * 2
        pooled = self._noise(1, unet.addition.pooled_width)
        return [TextStates(states, self.machine.tensor(pooled, self.backend))] * 2

    def _sizes(self, case: Case) -> Sequence[Sizes]:
        if self.backend.model.unet.addition is None:
            return ()
        size = (case.height, case.width)
        sizes = Sizes(original_size=size, crops_coords_top_left=(0, 0), target_size=size)
        return [sizes] * 2

    def _latents(self, case: Case) -> Floats:
        vae, factor = self.backend.model.vae, self.backend.model.vae.scale_factor
        shape = (case.batch, vae.latent_channels, case.height // factor, case.width // factor)
        return self._noise(*shape)

    def _noise(self, *shape: int) -> Floats:
        return self.draw.standard_normal(shape, np.float32)
