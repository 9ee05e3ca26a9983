"""A run: the loop over the steps of one plan, and its events."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ipa.arrays import Array, Floats
from ipa.backend.deep import DeepPart
from ipa.backend.protocol import Backend, Branch
from ipa.backend.schedule import MAX_HISTORY
from ipa.backend.vae_memory import VaeUse
from ipa.errors import Cancelled, NumericalError
from ipa.model.folder import ModelFolder
from ipa.prepare.image_prompts.attached import lora_scale
from ipa.prepare.images.pictures import to_pil
from ipa.prepare.samplers.noise import Streams
from ipa.prepare.scaling.lambdas import prompt_factors
from ipa.prepare.scaling.masks import Canvas
from ipa.request.influence import Halves, Influence
from ipa.request.result import Progress, Result
from ipa.request.scales import StepWeights
from ipa.version import __version__
from ipa.watching import CancelSignal, cancel_question

from .call_loras import ActingLoras
from .description import describe_request
from .memory.foresight import foresee
from .memory.staging import Allotment, Staging
from .plan import Plan, draw, noise_streams
from .previews import Previews
from .start import Start, begin

_LOG = logging.getLogger("ipa.pipeline")


class Recording:
    """A recorder of shares that becomes an `Influence` when the run ends."""

    def __init__(self, plan: Plan, model: ModelFolder) -> None:
        self._sites = model.sites
        self._size = plan.latent_shape[1:]
        self._grids = Canvas.of(model, plan.width, plan.height).grids
        self._pictures = [0] * len(plan.request.image_prompts)
        self._steps: list[list[Halves]] = []
        crops = () if plan.edits is None else plan.edits.crops
        made = len(plan.seeds) if crops else 0
        self._crops = tuple(crops[number % len(crops)] for number in range(made))

    def expect(self, prompt: int, pictures: int) -> None:
        """Note an image prompt's pictures, in the order in which the backend gets them."""
        self._pictures[prompt] += pictures

    def take(self, shares: Mapping[int, Floats]) -> None:
        """Record a step of `Backend.predict`. The text's share is what others leave.

        Sites that were not computed have those of the step before.
        """
        self._steps.append(
            [
                self._kept(shares[site], grid) if site in shares else self._steps[-1][site]
                for site, grid in enumerate(self._grids)
            ]
        )

    @staticmethod
    def _kept(site: Floats, grid: Sequence[int]) -> Halves:
        return site[1:].swapaxes(0, 1).reshape(site.shape[1], -1, *grid).astype(np.float16)

    def influence(self) -> Influence:
        """The influence over all recorded steps."""
        return Influence(
            pictures=tuple(self._pictures),
            sites=self._sites,
            size=self._size,
            shares=tuple(np.stack(site) for site in zip(*self._steps, strict=True)),
            crops=self._crops,
        )


class Run:
    """A run of one plan: the state of the loop, gone when it ends."""

    def __init__(
        self,
        backend: Backend,
        plan: Plan,
        loras: ActingLoras,
        cancel: CancelSignal | None = None,
        weights: StepWeights | None = None,
        allotted: Allotment | None = None,
    ) -> None:
        self.backend, self.plan, self.asked = backend, plan, cancel_question(cancel)
        self.loras, self.allotted = loras, allotted
        way = backend.vae_memory
        self.staging = Staging(
            backend.residency, allotted, lambda: foresee(plan, backend, None, way)
        )
        self.weights, self.factors = weights, list[list[float]]()
        self.recording = Recording(plan, backend.model) if plan.request.influence else None
        self.previews, self.estimate = Previews(backend, plan.request), None
        self.timings: dict[str, float] = {}
        self.described = self._describe()

    def events(self) -> Iterator[Progress]:
        """Run the loop: encode, denoise, decode. A NumericalError on the way names its run."""
        try:
            with self.staging.kept():
                yield from self._events()
        except NumericalError as error:
            error.info = self._info()
            raise

    def _events(self) -> Iterator[Progress]:
        self.loras.act(self.plan.loras)
        self.backend.reset()
        steps = len(self.plan.schedule.steps)
        announced = () if self.allotted is None else self.allotted.announced
        yield Progress(stage="encode", step=0, total=1, notes=announced)
        streams = noise_streams(self.plan)
        with self._timed("encode"):
            self.staging.enter("encode")
            start = begin(self.plan, self.backend, streams)
            conditioning = self._encode(start.channels)
        yield Progress(stage="encode", step=1, total=1)
        latents = np.empty(0, dtype=np.float32)
        began = time.perf_counter()
        steps_done = self._denoise(conditioning, start, streams)
        del conditioning, start  # the loop's now, and gone with it: what it holds cannot leave
        for done, current in steps_done:
            latents, eta = current, (time.perf_counter() - began) / done * (steps - done)
            shown = self.previews.picture(done, steps, self.estimate)
            yield Progress(stage="denoise", step=done, total=steps, eta_s=eta, preview=shown)
        self.timings["denoise"] = time.perf_counter() - began
        images: Any = []
        if self.plan.request.output_type != "latent":
            self._check_cancel("decode")
            yield Progress(stage="decode", step=0, total=1)
            with self._timed("decode"):
                self.staging.enter("decode")
                images = self._decode(latents)
            yield Progress(stage="decode", step=1, total=1)
        influence = None if self.recording is None else self.recording.influence()
        info = self._info() | ({} if influence is None else {"influence": influence.describe()})
        result = Result(images=images, latents=latents, info=info, influence=influence)
        _LOG.debug("a run of %d steps: %s", steps, self.timings)
        yield Progress(stage="done", step=1, total=1, eta_s=0.0, result=result)

    def _encode(self, channels: Floats | None) -> Any:
        texts = self.plan.texts
        self.staging.enter("text")
        positive = self.backend.encode_text(texts[-1].ids, texts[-1].reading)
        negative = [
            self.backend.encode_text(text.ids, text.reading)
            if text.tokens
            else self.backend.no_text(positive)
            for text in texts[:-1]
        ]
        branches = self._branches()
        self.staging.enter("condition")
        return self.backend.condition(
            [*negative, positive],
            branches,
            guided=self.plan.guided,
            sizes=[text.sizes for text in texts if text.sizes is not None],
            lora_scales=self._lora_scales(),
            controls=[control.branch for control in self.plan.controls],
            channels=channels,
            guidance=self.plan.guidance,
        )

    def _branches(self) -> list[Branch]:
        """The image prompts as the network sees them."""
        branches = []
        self.staging.enter("images")
        for prompt in self.plan.prompts:
            self._check_cancel("encode")
            embeds = prompt.features.compute(self.backend, prompt.adapter)
            tokens = self.backend.project(
                prompt.adapter,
                embeds.conditional,
                embeds.unconditional,
                prompt.features.identity(embeds),
            )
            if self.recording is not None:
                self.recording.expect(prompt.number, len(embeds))
            branch = Branch(
                prompt.adapter,
                tokens,
                prompt.masks,
                len(embeds),
                embeds_scaling=prompt.embeds_scaling,
                moved=prompt.moved,
            )
            branches.append(branch)
        return branches

    def _lora_scales(self) -> dict[str, float]:
        """The scales of adapters' LoRAs; 0 where every λ is 0: then the whole adapter is off.

        Unless the profile leaves it on (D28).
        """
        stays = self.plan.profile.face_lora_at_zero == "on"
        steps = range(len(self.plan.schedule.steps))
        tables = [self.plan.scales(step) for step in steps]
        active = {
            prompt.adapter
            for number, prompt in enumerate(self.plan.prompts)
            if stays or any(any(table[number]) for table in tables)
        }
        return {
            name: scale
            for name, attached in self.plan.loaded.adapters.items()
            if name in active and (scale := lora_scale(attached, self.plan.profile))
        }

    def _denoise(
        self, conditioning: Any, start: Start, streams: Streams
    ) -> Iterator[tuple[int, Floats]]:
        """Run the steps: yields the number of finished ones and the latents, checked for NaN."""
        plan, backend = self.plan, self.backend
        self.staging.enter("denoise")
        x = backend.from_numpy(start.latents)
        stochastic = any(step.x_noise for step in plan.schedule.steps)
        memories: list[Array] = []
        halves = {True: conditioning}
        if plan.guided and not all(plan.computed.guided):
            halves[False] = backend.conditional(conditioning)
        deep: DeepPart | None = None
        past = plan.past_features()
        for number, step in enumerate(plan.schedule.steps):
            self._check_cancel(f"denoise, step {number + 1}")
            shares: dict[int, Floats] | None = None if self.recording is None else {}
            if plan.computed.full[number]:
                deep = plan.deep_part()
            if past is not None:
                past.at(number, plan.computed.forecasts[number])
            output = backend.predict(
                x,
                step,
                halves.get(plan.computed.guided[number], conditioning),
                self._scales(number),
                shares,
                control_scales=plan.control_scales(number),
                deep=deep,
                past=past,
            )
            if self.recording is not None and shares is not None:
                self.recording.take(shares)
            output = backend.guide(output, plan.guidance_scale, plan.request.guidance_rescale)
            drawn = stochastic and step.draws
            noise = backend.from_numpy(draw(plan, streams)) if drawn else None
            x, self.estimate, memory = backend.advance(step, x, output, memories, noise)
            memories = [memory, *memories[: MAX_HISTORY - 1]]
            latents = backend.to_numpy(x)
            if start.kept is not None:
                latents = start.kept.blend(latents, number)
                x = backend.from_numpy(latents)
            self._check_finite(latents, number)
            yield number + 1, latents

    def _scales(self, step: int) -> Sequence[Sequence[float]]:
        """The λ[prompt][site] at a step, as planned and as `weights` changes it now."""
        planned = self.plan.scales(step)
        if self.weights is None:
            return planned
        steps = len(self.plan.schedule.steps)
        factors = prompt_factors(self.weights(step, steps), self.plan.adapters())
        self.factors.append(factors)
        pairs = zip(self.plan.prompts, planned, strict=True)
        return [[factors[p.number] * value for value in scales] for p, scales in pairs]

    def _decode(self, latents: Floats) -> Any:
        pictures = self.backend.decode(self.backend.from_numpy(latents))
        for number, picture in enumerate(pictures):
            if np.ptp(picture) == 0.0:
                raise NumericalError(
                    f"picture {number} is of one single colour",
                    found=f"every value is {picture.flat[0]:.3f}",
                    remedy='load with dtype="float32"; if it stays, check the model\'s files',
                )
        if self.plan.request.output_type != "pil":
            return pictures
        edits = self.plan.edits
        return to_pil(pictures) if edits is None else edits.overlaid(to_pil(pictures))

    def _describe(self) -> dict[str, Any]:
        """The description of the run as known before it begins."""
        model, weights = self.backend.model, None if self.weights is None else "callable"
        return {
            "ipa_mlx": __version__,
            "model": model.name,
            "vae": None if model.other_vae is None else model.other_vae.name,
            "request": describe_request(self.plan) | {"weights": weights},
            **self.backend.describe(),
        }

    def _info(self) -> dict[str, Any]:
        return {
            **self.described,
            **({} if self.weights is None else {"weights_by_step": self.factors}),
            **self.plan.computed.saved,
            **self._vae_way(),
            "memory": None if self.allotted is None else self.allotted.describe(),
            "timings_s": {stage: round(seconds, 4) for stage, seconds in self.timings.items()},
            "peak_memory_bytes": self.backend.peak_memory(),
            "warnings": [
                *self.plan.warnings,
                *(() if self.allotted is None else self.allotted.notes),
                *self.loras.warnings(self.plan.loras),
                *self.backend.left_out.warnings(),
                *self.backend.warnings,
            ],
        }

    def _vae_way(self) -> dict[str, str]:
        """How the run's pictures went through the VAE; {} if none did."""
        plan = self.plan
        is_used = plan.request.output_type != "latent" or (
            plan.edits is not None and plan.edits.latents is None
        )
        use = VaeUse(self.backend.vae_memory, self.backend.model.vae)
        return {"vae_way": use.way(plan.height, plan.width)} if is_used else {}

    def _check_cancel(self, where: str) -> None:
        if self.asked():
            raise Cancelled("the run was cancelled", found=f"before: {where}")

    def _check_finite(self, latents: Floats, number: int) -> None:
        if not np.isfinite(latents).all():
            raise NumericalError(
                f"step {number + 1} of {len(self.plan.schedule.steps)} gave NaN or infinity",
                found=f"scheduler {self.plan.schedule.name}",
                remedy='load with dtype="float32", or lower guidance_scale and the scales',
            )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.timings[stage] = time.perf_counter() - began
