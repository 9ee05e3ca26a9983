"""The pipeline: a loaded model that makes pictures."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack

from PIL import Image

from ipa.arrays import Floats
from ipa.backend.protocol import Backend
from ipa.backend.tap import Tap, check_tap
from ipa.backend.tiling import VaeTiling
from ipa.backend.vae_memory import VaeMemory, as_tiling, of_tiling
from ipa.backend.watched import watched
from ipa.checks import check_callback, checked
from ipa.errors import RequestError, shown
from ipa.memory.budget import Budget
from ipa.memory.plan import MemoryPlan
from ipa.metadata.ours import FileHashes
from ipa.prepare.controls.planning import requested_controls
from ipa.prepare.image_prompts.attached import adapter_name
from ipa.prepare.image_prompts.embeds_origin import load_embeds
from ipa.prepare.image_prompts.encoder_views import views
from ipa.prepare.image_prompts.encoding import EncodingOptions, Reader, plan_features
from ipa.prepare.image_prompts.faces import check_fits
from ipa.prepare.image_prompts.parts import listed
from ipa.prepare.image_prompts.text_direction import plan_direction
from ipa.prepare.images.clip import clip_pixels
from ipa.prepare.scaling.lambdas import check_weights
from ipa.request.batch import Batch, make_batch
from ipa.request.embeds import ImageEmbeds
from ipa.request.image_prompt import ImagePrompt, check_image_prompts
from ipa.request.pictures import Picture
from ipa.request.profiles import profile_named
from ipa.request.request import RequestArguments, check_names
from ipa.request.result import Progress, Result
from ipa.request.scales import StepWeights

from .adapters import joins_faces, named
from .batch import BatchRun, plan_batch
from .call_loras import ActingLoras
from .changes import adapters, controls, decoders, loras, words
from .documents.hashes import file_hashes
from .documents.replaying import replay
from .loaded import Loaded
from .memory.allotment import allot, plan_memory
from .memory.parts import reading_parts
from .plan import prompts_from_ip_adapter_image
from .run import CancelSignal
from .snapshot import Selection, Snapshot

P = ParamSpec("P")
R = TypeVar("R")


def _of_loaded(verb: Callable[Concatenate[Loaded, P], R]) -> Callable[Concatenate[Pipeline, P], R]:
    """A change of what a pipeline has loaded as one of its methods, with its words."""

    @functools.wraps(verb)
    def method(self: Pipeline, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return verb(self._loaded, *args, **kwargs)

    method.__module__, method.__qualname__ = __name__, f"Pipeline.{verb.__name__}"
    return method


class Pipeline:
    """A loaded model, ready to make pictures. Made by `ipa.load`.

    Calls from several threads wait for one another. What is loaded beside the model, and how it is
    changed, is in `ipa.pipeline.loaded` and `ipa.pipeline.changes`.
    """

    def __init__(self, backend: Backend) -> None:
        self._loaded = Loaded(backend)
        self._selection: Selection | None = None

    load_ip_adapter = _of_loaded(adapters.load_ip_adapter)
    set_ip_adapter_scale = _of_loaded(adapters.set_ip_adapter_scale)
    unload_ip_adapter = _of_loaded(adapters.unload_ip_adapter)
    load_controlnet = _of_loaded(controls.load_controlnet)
    unload_controlnet = _of_loaded(controls.unload_controlnet)
    load_t2i_adapter = _of_loaded(controls.load_t2i_adapter)
    unload_t2i_adapter = _of_loaded(controls.unload_t2i_adapter)
    load_lora = _of_loaded(loras.load_lora)
    set_lora_scale = _of_loaded(loras.set_lora_scale)
    unload_lora = _of_loaded(loras.unload_lora)
    load_textual_inversion = _of_loaded(words.load_textual_inversion)
    unload_textual_inversion = _of_loaded(words.unload_textual_inversion)
    load_preview_decoder = _of_loaded(decoders.load_preview_decoder)
    info = _of_loaded(Loaded.info)
    release = _of_loaded(Loaded.release)
    fingerprints = _of_loaded(Loaded.fingerprints)

    def file_hashes(self) -> FileHashes:
        """Hashes of the files that are loaded, as A1111 names them; a model's file is read whole.

        They go into pictures, so that programs and sites know the weights again.
        """
        return file_hashes(self._snapshot()[0])

    @property
    def vae_memory(self) -> VaeMemory:
        """How pictures go through the VAE; the pipeline's to set.

        "whole": at once. "strips": some rows at a time, the same picture to rounding, in much less
        memory. "tiles": diffusers' tiles of the training size, each normalised by itself: another
        picture. A number: tiles of that many pixels. None, the default: strips where the picture
        has more than 2.4 million pixels, else at once.

        A run that is watched by a tap takes the picture whole where this says strips.
        """
        return self._loaded.vae_memory

    @vae_memory.setter
    def vae_memory(self, memory: VaeMemory) -> None:
        self._loaded.vae_memory = memory

    @property
    def vae_tiling(self) -> VaeTiling:
        """The older spelling of `vae_memory`: True is "tiles", False "whole"; it knows no strips.

        A number and None mean the same in both.
        """
        return as_tiling(self.vae_memory)

    @vae_tiling.setter
    def vae_tiling(self, tiling: VaeTiling) -> None:
        self._loaded.vae_memory = of_tiling(tiling, self._loaded.backend.model.vae)

    @property
    def memory_budget(self) -> Budget:
        """GiB (2³⁰ bytes) that a run may take, "auto", or None for no limit; it may be set.

        With a budget, parts of the model are read for the stages that use them, and let go between
        stages and calls where there is no room to keep them; pictures stay the same bit for bit.
        A call that cannot fit is refused before anything is read. "auto" is a share of what the
        machine can give when it is set. A backend that keeps everything (torch) only refuses.
        """
        return self._loaded.memory_budget

    @memory_budget.setter
    def memory_budget(self, budget: Budget) -> None:
        self._loaded.memory_budget = budget

    @property
    def memory_offers(self) -> tuple[str, ...]:
        """What may be changed of a call that is over the budget; it may be set.

        Names of `ipa.memory.limits.OFFERS`, all of which leave the picture as it is, but for
        rounding. What was taken is in `Result.info["memory"]`.
        """
        return self._loaded.memory_offers

    @memory_offers.setter
    def memory_offers(self, offers: Sequence[str]) -> None:
        self._loaded.memory_offers = offers

    @property
    def lora_folder(self) -> Path | None:
        """The folder of LoRAs that prompts may name in A1111's way, besides those that are loaded.

        It may be set. Such a LoRA is loaded for the call alone.
        """
        return self._loaded.lora_folder

    @lora_folder.setter
    def lora_folder(self, folder: str | Path | None) -> None:
        self._loaded.lora_folder = folder

    def showing(self, selection: Selection) -> Pipeline:
        """The same pipeline, whose calls see some of what is loaded and nothing else."""
        if not isinstance(selection, Selection):
            raise RequestError("selection must be a Selection", found=shown(selection))
        view = copy.copy(self)
        view._selection = selection
        return view

    def _snapshot(self) -> tuple[Snapshot, Backend]:
        loaded, backend = self._loaded.snapshot()
        return loaded if self._selection is None else self._selection.of(loaded), backend

    @checked
    def embed_images(self, images: Sequence[Picture], adapter: str | None = None) -> Floats:
        """CLIP embeddings of pictures, (N, P), by the encoder of an adapter (by default the first).

        For comparing pictures: the cosine of two embeddings is their likeness to that encoder.
        """
        if not isinstance(images, (list, tuple)):
            raise RequestError(
                "embed_images needs a list of pictures",
                found=type(images).__name__,
                remedy="[picture] is one",
            )
        now, backend = self._snapshot()
        if not now.adapters:
            raise RequestError("no image encoder is loaded", remedy="load_ip_adapter first")
        name = named(adapter, now.adapters)[0]
        loaded = now.adapters[name].loaded
        if loaded.encoder is None:
            raise RequestError(f"{name} has no image encoder", remedy="name another adapter")
        pixels = clip_pixels(images, loaded.preprocessing)
        with self._loaded.owned_for(*reading_parts(name, backend.residency.encoders())):
            return backend.embed_images(name, pixels)

    @checked
    def encode_image_prompt(
        self,
        image: Picture | Sequence[Picture] | ImageEmbeds | None = None,
        *,
        adapter: str | None = None,
        profile: str | None = None,
        **options: Unpack[EncodingOptions],
    ) -> ImageEmbeds:
        """What an adapter's encoder says about pictures: to keep, combine, and prompt with.

        Args:
            image: One picture or several, or embeds to combine.
            adapter: A loaded adapter; None takes the only one.
            profile: That of the calls they are for (`ipa.request.profiles`).
            **options: combine, negative, fit, sharpen, encoder_mask, enhance_tiles, enhance_ratio,
                neg_content_prompt, neg_content_scale, face; see `ImagePrompt`.
        """
        now, backend = self._snapshot()
        name, prompt = adapter_name(adapter, now.adapters), ImagePrompt(image, **options)
        attached = now.adapters[name]
        check_fits(prompt, attached.loaded.spec, attached.file)
        direction = plan_direction(prompt, name, attached.loaded, now.model, now.tokenizers)
        reader = Reader(name, attached, profile_named(profile))
        features = plan_features(prompt, reader, direction)
        with self._loaded.owned_for(*reading_parts(name, backend.residency.encoders())):
            return features.compute(backend, name)

    @checked
    def load_image_embeds(
        self, path: str | Path, *, adapter: str | None = None, profile: str | None = None
    ) -> ImageEmbeds:
        """Embeds for an adapter from a file of ours, or from diffusers' or ComfyUI's .ipadpt."""
        now, backend = self._snapshot()
        name, chosen = adapter_name(adapter, now.adapters), profile_named(profile)
        with self._loaded.owned_for(*reading_parts(name, backend.residency.encoders())):
            return load_embeds(path, backend, name, now.adapters[name].loaded, chosen)

    @checked
    def encoder_views(
        self, prompt: ImagePrompt, *, profile: str | None = None
    ) -> list[Image.Image]:
        """What the image encoder sees of each picture of a prompt, or of its tiles, as pictures."""
        if not isinstance(prompt, ImagePrompt):
            raise RequestError("encoder_views needs ImagePrompt", found=type(prompt).__name__)
        now, _ = self._snapshot()
        name = adapter_name(prompt.adapter, now.adapters)
        return views(prompt, now.adapters[name].loaded, profile_named(profile))

    def __call__(
        self,
        prompt: str | Sequence[str] = "",
        *,
        image_prompts: ImagePrompt | Sequence[ImagePrompt] = (),
        ip_adapter_image: Picture | Sequence[Any] | None = None,
        controlnet_image: Picture | Sequence[Picture] | None = None,
        weights: StepWeights | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: CancelSignal | None = None,
        tap: Tap | None = None,
        **arguments: Unpack[RequestArguments],
    ) -> Result:
        """Make pictures.

        Args:
            prompt: Text; "" conditions on pictures alone. A list makes num_images pictures of each,
                one prompt after another; so may the other texts be lists. Picture number p of all
                takes the seed seed + p.
            image_prompts: Pictures as prompts, one or several; all of their pictures for every
                prompt, or one each for those that are batched.
            ip_adapter_image: diffusers' form of the same: a picture, or a list with one entry per
                loaded adapter, an entry being a picture or a list of pictures.
            controlnet_image: The simple form of `controls`: a picture, or a list with one per
                loaded ControlNet.
            weights: Called before step i of n with (i, n), in this thread, for factors on λ by the
                index of an image prompt or the name of an adapter. What it gave is kept in
                `Result.info["weights_by_step"]`.
            on_progress: Called with every event, in this thread.
            cancel: Asked between steps whether to stop: an event, or a function.
            tap: Told of every stage of the computation, and may change it (`ipa.backend.tap`); of
                one picture at a time.
            **arguments: See `ipa.request.request.Request`.

        Raises:
            RequestError: An argument cannot be honoured; nothing was computed.
            Cancelled: `cancel` was set; the pipeline stays usable.
            NumericalError: The computation gave NaN or a picture of one single colour.
        """
        check_callback("on_progress", on_progress)
        result: Result | None = None
        for event in self.stream(
            prompt,
            image_prompts=image_prompts,
            ip_adapter_image=ip_adapter_image,
            controlnet_image=controlnet_image,
            weights=weights,
            cancel=cancel,
            tap=tap,
            **arguments,
        ):
            result = event.result
            if on_progress is not None:
                on_progress(event)
        if result is None:
            raise RuntimeError("a stream ended without its result")
        return result

    @checked
    def replay(
        self,
        file: str | Path,
        *,
        prompt: str | Sequence[str] | None = None,
        pictures: Sequence[str | Path] = (),
        **changes: Unpack[RequestArguments],
    ) -> Result:
        """Run again what a picture's file (PNG, JPEG, WebP) or a request as JSON says.

        A picture of ours is made again bit for bit by the same model, adapters and backend. Of
        another program's (A1111, ComfyUI, InvokeAI, SwarmUI, Fooocus, Draw Things) its request is
        taken as far as it can be ours. `Result.info["replay"]` has under "not_restored" what is
        not as it was: other models, unknown settings, pictures that are not in the file.

        Args:
            file: The file.
            prompt: Another text instead of its own.
            pictures: Files and folders in which its pictures are looked for; those that a PNG
                embeds need none.
            **changes: Arguments that replace the picture's own; see `ipa.request.request.Request`.

        Raises:
            RequestError: It says nothing, a picture is not at hand, or an adapter that it names is
                not loaded.
        """
        texts = {} if prompt is None else {"prompt": prompt}
        asked = {**changes, **texts}
        return replay(self, self.info(), Path(file), [Path(one) for one in pictures], asked)

    def stream(
        self,
        prompt: str | Sequence[str] = "",
        *,
        image_prompts: ImagePrompt | Sequence[ImagePrompt] = (),
        ip_adapter_image: Picture | Sequence[Any] | None = None,
        controlnet_image: Picture | Sequence[Picture] | None = None,
        weights: StepWeights | None = None,
        cancel: CancelSignal | None = None,
        tap: Tap | None = None,
        **arguments: Unpack[RequestArguments],
    ) -> Iterator[Progress]:
        """The same as a call, as a generator of events; the last one carries the result.

        Arguments are checked at once, before the first event is asked for. What is loaded or set
        after that does not reach it.
        """
        check_names(arguments)
        check_weights(weights)
        check_tap(tap)
        now, frozen = self._snapshot()
        pictures = (image_prompts, ip_adapter_image, controlnet_image)
        asked, batch = _batch({"prompt": prompt, **arguments}, pictures, now)
        plans = plan_batch(batch, now)
        limits = now.limits if weights is None else now.limits.without("fewer")
        allotted = allot(plans, frozen, limits, watched=tap is not None)
        backend, hooks = watched(allotted.backend, tap, sum(len(plan.seeds) for plan in plans))
        acting = ActingLoras(
            frozen.loras, [plan.loras for plan in plans], self._loaded.loras.restore
        )
        run = BatchRun(backend, batch, plans, acting, cancel, weights, allotted, asked)
        return self._run(run, acting.lent(), hooks)

    def plan(
        self,
        prompt: str | Sequence[str] = "",
        *,
        image_prompts: ImagePrompt | Sequence[ImagePrompt] = (),
        ip_adapter_image: Picture | Sequence[Any] | None = None,
        controlnet_image: Picture | Sequence[Picture] | None = None,
        **arguments: Unpack[RequestArguments],
    ) -> MemoryPlan:
        """Foretell the memory of a call: each stage's peak, whether it fits, what would take less.

        The arguments are the call's. No weight is read, nothing is computed. Of several prompts it
        is the one that takes the most, since they run one after another. Bytes are those that the
        framework counts; freed buffers that it keeps come on top, as far as there is room.

        Raises:
            RequestError: An argument cannot be honoured.
        """
        check_names(arguments)
        now, frozen = self._snapshot()
        pictures = (image_prompts, ip_adapter_image, controlnet_image)
        _, batch = _batch({"prompt": prompt, **arguments}, pictures, now)
        return plan_memory(plan_batch(batch, now), frozen, now.limits, frozen.vae_memory)

    def _run(
        self,
        run: BatchRun,
        loras: AbstractContextManager[None],
        hooks: AbstractContextManager[None],
    ) -> Iterator[Progress]:
        with self._loaded.owned(), loras, hooks:
            yield from run.events()


def _batch(
    arguments: dict[str, Any], pictures: tuple[Any, Any, Any], now: Snapshot
) -> tuple[dict[str, Any], Batch]:
    """A call's arguments but for its image prompts, and its requests.

    `pictures` are image_prompts, ip_adapter_image and controlnet_image.
    """
    image_prompts, ip_adapter_image, controlnet_image = pictures
    prompts: Sequence[ImagePrompt] = check_image_prompts(image_prompts)
    if ip_adapter_image is not None:
        if prompts:
            raise RequestError("pass image_prompts or ip_adapter_image, not both")
        prompts = prompts_from_ip_adapter_image(ip_adapter_image, now.adapters)
    profile = profile_named(arguments.get("profile"))
    prompts = [
        listed(entry, profile, joins_faces=joins_faces(entry, now.adapters)) for entry in prompts
    ]
    controls = requested_controls(arguments.get("controls", ()), controlnet_image, now.controlnets)
    asked = {**arguments, "controls": controls}
    return asked, make_batch(prompts, asked)
