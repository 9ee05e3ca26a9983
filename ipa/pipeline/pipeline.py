"""The pipeline: a loaded model that makes pictures."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack

from ipa.backend.protocol import Backend
from ipa.backend.tap import Tap, check_tap
from ipa.backend.tiling import VaeTiling
from ipa.backend.vae_memory import VaeMemory, as_tiling, of_tiling
from ipa.backend.watched import watched
from ipa.checks import check_callback, check_plain, checked
from ipa.errors import RequestError, shown
from ipa.memory.budget import Budget
from ipa.memory.plan import MemoryPlan
from ipa.metadata.ours import FileHashes
from ipa.prepare.scaling.lambdas import check_weights
from ipa.request.image_prompt import ImagePrompt
from ipa.request.pictures import Picture
from ipa.request.request import RequestArguments, check_names
from ipa.request.result import OnProgress, Progress, Result
from ipa.request.scales import StepWeights
from ipa.watching import CancelSignal

from .batch import BatchRun
from .batch_plan import asked_batch, plan_batch
from .call_loras import ActingLoras
from .calls import asynchronous, encoding
from .calls.encoding import Seen
from .calls.turns import CallArguments, Wait, apart, check_wait
from .changes import adapters, controls, decoders, loras, words
from .documents.hashes import file_hashes
from .documents.replaying import replay
from .loaded import Loaded
from .memory.allotment import allot, plan_memory
from .snapshot import Selection

P = ParamSpec("P")
R = TypeVar("R")


def _of_loaded(verb: Callable[Concatenate[Loaded, P], R]) -> Callable[Concatenate[Pipeline, P], R]:
    """A change of what a pipeline has loaded as one of its methods, with its words."""

    @functools.wraps(verb)
    def method(self: Pipeline, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return verb(self._loaded, *args, **kwargs)

    method.__module__, method.__qualname__ = __name__, f"Pipeline.{verb.__name__}"
    return method


def _of_seen(verb: Callable[Concatenate[Seen, P], R]) -> Callable[Concatenate[Pipeline, P], R]:
    """A question about what calls see, as one of a pipeline's methods, with its words."""

    @functools.wraps(verb)
    def method(self: Pipeline, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return verb(self._seen, *args, **kwargs)

    method.__module__, method.__qualname__ = __name__, f"Pipeline.{verb.__name__}"
    return method


class Pipeline:
    """A loaded model, ready to make pictures. Made by `ipa.load`.

    Calls from several threads wait for one another, as long as `wait` says. `close()` gives the
    memory back, as does the end of a `with` block. What is loaded beside the model, and how it is
    changed, is in `ipa.pipeline.loaded` and `ipa.pipeline.changes`.
    """

    def __init__(self, backend: Backend) -> None:
        self._loaded = Loaded(backend)
        self._selection: Selection | None = None

    @property
    def _seen(self) -> Seen:
        return Seen(self._loaded, self._selection)

    def __repr__(self) -> str:
        return f"<Pipeline {self._loaded.in_words()}>"

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
    close = _of_loaded(Loaded.close)
    fingerprints = _of_loaded(Loaded.fingerprints)
    embed_images = _of_seen(encoding.embed_images)
    encode_image_prompt = _of_seen(encoding.encode_image_prompt)
    load_image_embeds = _of_seen(encoding.load_image_embeds)
    encoder_views = _of_seen(encoding.encoder_views)
    astream = asynchronous.astream
    agenerate = asynchronous.agenerate

    @property
    def closed(self) -> bool:
        """Whether it was closed; then every call is `PipelineClosed`."""
        return self._loaded.is_closed

    @property
    def busy(self) -> bool:
        """Whether a picture is made, or something loaded, in any thread at this moment."""
        return self._loaded.turns.busy

    @property
    def wait(self) -> Wait:
        """Seconds that every call, load and setting waits while another thread has the pipeline.

        Then it raises `PipelineBusy`. 0 does not wait; None, the default, waits as long as it
        takes. It may be set; a call may have a `wait` of its own.
        """
        return self._loaded.turns.wait

    @wait.setter
    def wait(self, wait: Wait) -> None:
        self._loaded.turns.wait = check_wait(wait)

    def file_hashes(self) -> FileHashes:
        """Hashes of the files that are loaded, as A1111 names them; a model's file is read whole.

        They go into pictures, so that programs and sites know the weights again.
        """
        return file_hashes(self._seen.snapshot()[0])

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

    def __call__(
        self,
        prompt: str | Sequence[str] = "",
        *,
        image_prompts: ImagePrompt | Sequence[ImagePrompt] = (),
        ip_adapter_image: Picture | Sequence[Any] | None = None,
        controlnet_image: Picture | Sequence[Picture] | None = None,
        weights: StepWeights | None = None,
        on_progress: OnProgress | None = None,
        cancel: CancelSignal | None = None,
        tap: Tap | None = None,
        **arguments: Unpack[CallArguments],
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
            **arguments: See `ipa.request.request.Request`. And `wait`: the seconds to wait while
                another thread has the pipeline; 0 does not wait, None waits as long as it takes;
                by default `Pipeline.wait`.

        Raises:
            RequestError: An argument cannot be honoured; nothing was computed.
            Cancelled: `cancel` was set; the pipeline stays usable.
            PipelineBusy: Another thread had the pipeline for longer than `wait`.
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
        check_plain("file", file, (str, Path))
        if not isinstance(pictures, (list, tuple)):
            raise RequestError(
                "pictures must be a list of files and folders", found=shown(pictures)
            )
        for entry in pictures:
            check_plain("an entry of pictures", entry, (str, Path))
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
        **arguments: Unpack[CallArguments],
    ) -> Generator[Progress, None, None]:
        """The same as a call, as a generator of events; the last one carries the result.

        Arguments are checked at once, before the first event is asked for. What is loaded or set
        after that does not reach it.

        The pipeline is this stream's from its first event to its end: take it there, or close() it
        (`contextlib.closing`). Other threads wait until then, as long as their `wait` says.
        """
        request, wait = apart(arguments, self.wait)
        check_weights(weights)
        check_tap(tap)
        now, frozen = self._seen.snapshot(wait)
        pictures = (image_prompts, ip_adapter_image, controlnet_image)
        asked, batch = asked_batch({"prompt": prompt, **request}, pictures, now)
        plans = plan_batch(batch, now)
        limits = now.limits if weights is None else now.limits.without("fewer")
        allotted = allot(plans, frozen, limits, watched=tap is not None)
        backend, hooks = watched(allotted.backend, tap, sum(len(plan.seeds) for plan in plans))
        acting = ActingLoras(
            frozen.loras, [plan.loras for plan in plans], self._loaded.loras.restore
        )
        run = BatchRun(backend, batch, plans, acting, cancel, weights, allotted, asked)
        turn = self._loaded.owned(wait, cancel=cancel)
        events = _events(run, turn, acting.lent(), hooks)
        self._loaded.streams.add(events)
        return events

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
        now, frozen = self._seen.snapshot()
        pictures = (image_prompts, ip_adapter_image, controlnet_image)
        _, batch = asked_batch({"prompt": prompt, **arguments}, pictures, now)
        return plan_memory(plan_batch(batch, now), frozen, now.limits, frozen.vae_memory)


def _events(
    run: BatchRun, *around: AbstractContextManager[None]
) -> Generator[Progress, None, None]:
    with ExitStack() as stack:
        for context in around:
            stack.enter_context(context)
        yield from run.events()
