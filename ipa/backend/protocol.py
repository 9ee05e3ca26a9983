"""The interface that every backend implements; the pipeline knows nothing else of it.

Arrays cross it as numpy. What a backend keeps for itself (tensors on a device, keys and values) is
opaque here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ipa.arrays import Array, Floats
from ipa.model.adapter import AdapterSpec
from ipa.model.clip import ClipVisionSpec
from ipa.model.control_files import ControlFiles
from ipa.model.folder import AdapterFiles, ModelFolder
from ipa.model.ignoring import NOTHING as NOTHING_ASKED
from ipa.model.ignoring import Ignore
from ipa.model.left_out import NOTHING, LeftOut
from ipa.model.vae import TinyVaeFiles
from ipa.request.scales import V_ONLY

from .deep import DeepPart
from .past import PastFeatures
from .residency import Residency
from .schedule import Step
from .tap import Taps
from .text import PLAIN, Sizes, TextOptions, TextStates
from .vae_memory import VaeMemory
from .work import Work, WorkMemory


@dataclass(frozen=True, slots=True)
class LoadedLora:
    """The facts of a LoRA that a backend has loaded.

    `layers` counts the layers that it changes, by network; `nbytes` is what its matrices hold, and
    `originals_nbytes` the weights that stay beside fused ones. `left_out` has the names in the file
    of tensors that are not used, and why.
    """

    layers: Mapping[str, int]
    nbytes: int
    originals_nbytes: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoraScale:
    """The scale of a LoRA in the UNet, and in the text encoders."""

    unet: float
    text: float

    @classmethod
    def of(cls, scale: float) -> LoraScale:
        """One scale for all networks."""
        return cls(scale, scale)

    def __bool__(self) -> bool:
        return self.unet != 0.0 or self.text != 0.0

    def at(self, network: str) -> float:
        """The scale in one network."""
        return self.unet if network == "unet" else self.text


class LoraSet(Protocol):
    """The LoRAs beside one loaded model.

    A layer's output is W x + Σ_i scale_i · (alpha_i / rank_i) · up_i (down_i x), over the LoRAs
    that are used with a scale that is not 0; the base model's own weights are never written to.
    """

    def load(
        self, name: str, path: Path, *, fuse: bool, ignore: Ignore = NOTHING_ASKED
    ) -> LoadedLora:
        """Load a file under a new name, all or nothing; it changes nothing until it is used.

        With `fuse`, sums of weights are computed when its scale changes, not at every step.
        `ignore` names what of the file may be left out, if it has no place in this model.

        Raises:
            CheckpointError: A tensor has no layer in this model or another shape, or no number; or
                it is for another base model.
            RequestError: Layers are quantised and cannot be fused.
        """

    def unload(self, name: str) -> None:
        """Unload one, whose scale was set to 0 or left out of the last `use`."""

    def use(self, scales: Mapping[str, LoraScale]) -> None:
        """Set which LoRAs act from now on, and how strongly; the others, and those at 0, do not.

        Where none acts, the base model's own layers stand, bit for bit.
        """


class ControlNetStore(Protocol):
    """The ControlNets and T2I-Adapters beside a backend's model, by name."""

    def load(self, name: str, files: ControlFiles) -> int:
        """Load a control that fits the model, all or nothing; returns its bytes."""

    def unload(self, name: str) -> None:
        """Unload one control."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlBranch:
    """A control as the network sees it.

    `name` is the ControlNet's, and `pixels` are (1, 3, H, W) in [0, 1], red first; or a
    T2I-Adapter's, which may take (1, 1, H, W). With `conditional_only` nothing is added to the
    unconditional half, for which a ControlNet is not run; a T2I-Adapter never is.
    """

    name: str
    pixels: npt.NDArray[np.float32] = field(repr=False)
    conditional_only: bool = False


PreviewDecoder: TypeAlias = Callable[[Array], Floats]
"""A decoder for previews: latents (N, C, h, w) to pictures (N, H, W, 3) in [0, 1], roughly."""


NO_LORA: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """Image tokens of one image prompt: (1, T, D) each; T counts all its pictures' tokens."""

    conditional: Array
    unconditional: Array


@dataclass(frozen=True, slots=True)
class Branch:
    """An image prompt as the network sees it: its tokens, and the adapter that made them.

    `masks` has for each site, in the order of site numbers, float32 (L,): what multiplies the
    branch at each of its queries, row by row. None is 1 everywhere: nothing is multiplied.
    `pictures` says of how many the tokens are, side by side, each with as many as the others.

    `embeds_scaling` is a key of `ipa.request.scales.EMBEDS_SCALINGS`: what λ multiplies.

    `moved` says for each site whether its tokens are moved: the unconditional row then has the
    conditional tokens, and the conditional row has tokens of zeros, which add exactly 0. Without
    guidance there is no row to move them to, and the site adds 0. None is nowhere.
    """

    adapter: str
    tokens: ImageTokens
    masks: Sequence[Floats | None] | None = None
    pictures: int = 1
    embeds_scaling: str = V_ONLY
    moved: Sequence[bool] | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """A face's identity beside its hidden states: for FaceID-Plus.

    (N, 512) identities and 1 or N rows for none. `shortcut_scale` is the weight of what is seen
    where the identity's own tokens are added (v2); None where they are not (v1).
    """

    conditional: Floats
    unconditional: Floats
    shortcut_scale: float | None


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """The facts of an adapter that a backend has loaded.

    `encoder_name` says which image encoder it uses, `encoder_sha256` tells it from others
    (`ipa.sources.encoders.fingerprint`); `nbytes` is what the adapter itself holds. An adapter that
    takes the identity of a face alone has no encoder: None, "", "" and {}. `left_out` is what else
    its file holds: the base model that a training's checkpoint repeats, and copies.
    """

    spec: AdapterSpec
    encoder: ClipVisionSpec | None
    encoder_name: str
    encoder_sha256: str
    preprocessing: Mapping[str, Any]
    nbytes: int
    left_out: LeftOut = NOTHING

    @property
    def unread(self) -> tuple[str, ...]:
        """Warnings about settings of its image encoder's config that are not known."""
        return self.encoder.unread if self.encoder else ()


class Backend(Protocol):
    """A framework with a loaded model. Not thread-safe: the pipeline serialises its calls."""

    name: str
    dtype: str
    model: ModelFolder
    vae_memory: VaeMemory
    preview_decoder: PreviewDecoder | None
    left_out: LeftOut
    lazy: bool
    """Whether what is loaded from now on is read when it is first used, if the backend can."""
    warnings: list[str]
    """The warnings since `reset`."""

    def work_memory(self, work: Work) -> WorkMemory | None:
        """The memory that some work of this model takes beside its weights, told without running.

        None where the backend does not foretell.
        """

    @property
    def residency(self) -> Residency:
        """What of the model is in memory."""

    @property
    def controlnets(self) -> ControlNetStore:
        """The store of ControlNets and T2I-Adapters."""

    @property
    def loras(self) -> LoraSet:
        """The LoRAs beside the model."""

    @property
    def taps(self) -> Taps:
        """The hooks by which a run can be watched."""

    def frozen(self) -> Backend:
        """The same model with what is loaded and set now, whatever changes later.

        Later loads, unloads and settings of either do not reach the other. The networks are shared;
        what is unloaded here is kept for as long as the other is. One of them is used at a time.
        """

    def load_adapter(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """Load an adapter and, unless the model's own fits, its image encoder. All or nothing."""

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter, and its encoder if nothing else uses it."""

    def encode_text(
        self, token_ids: npt.NDArray[np.int32], reading: TextOptions = PLAIN
    ) -> TextStates:
        """Encode one prompt's ids: (text encoders, 77), or in chunks (…, chunks, 77).

        States of chunks are joined; the pooled text is the first one's, as in A1111 and ComfyUI.
        """

    def no_text(self, like: TextStates) -> TextStates:
        """Zeros in the shape of other states: what SDXL takes where there is no negative prompt."""

    def encode_images(self, adapter: str, pixels: Floats) -> tuple[Floats, Floats]:
        """Encode normalised pixels (N, 3, S, S) to features for the adapter's projector.

        Returns:
            (N, P) embeddings or (N, T, C) states, and one row of the same for no picture: zeros,
            or the states of an all-zero (mean grey) picture: what the adapters were trained with
            (tutorial_train*.py).
        """

    def project(
        self,
        adapter: str,
        conditional: Floats,
        unconditional: Floats,
        identity: Identity | None = None,
    ) -> ImageTokens:
        """Project features of N pictures, and 1 or N unconditional rows, to image tokens."""

    def embed_images(self, adapter: str, pixels: Floats) -> Floats:
        """Encode normalised pixels (N, 3, S, S) to projected embeddings (N, P)."""

    def embed_text(self, token_ids: npt.NDArray[np.int32], reading: TextOptions = PLAIN) -> Floats:
        """Encode one prompt's ids to SDXL's pooled, projected text (1, P)."""

    def condition(
        self,
        text: Sequence[TextStates],
        branches: Sequence[Branch],
        *,
        guided: bool,
        sizes: Sequence[Sizes] = (),
        lora_scales: Mapping[str, float] = NO_LORA,
        controls: Sequence[ControlBranch] = (),
        channels: Floats | None = None,
        guidance: Floats | None = None,
    ) -> Any:
        """Compute keys and values of text and images for every site, once per generation.

        Args:
            text: [negative, positive] if guided, else [positive].
            branches: The image prompts.
            guided: Whether unconditional rows are needed.
            sizes: One for each text, for SDXL; none for other models.
            lora_scales: By adapter: the strength of the low-rank changes that a FaceID file brings
                for every attention. The base model's own weights stay as they are.
            controls: ControlNets with their pictures. They attend to the text, by their own
                weights, and to no image prompt. T2I-Adapters see their pictures alone, here and
                never again.
            channels: (N, K, h, w) that the network takes beside the latents of N pictures: mask and
                masked picture, of models for inpainting.
            guidance: (1, K), the guidance scale's sinusoid, for networks that take it with the
                timestep (`ipa.prepare.guidance`).
        """

    def conditional(self, conditioning: Any) -> Any:
        """Take the conditional half of what `condition` computed, for steps without guidance."""

    def from_numpy(self, array: Floats) -> Array:
        """Convert float32 latents to the backend's tensor."""

    def to_numpy(self, array: Array) -> Floats:
        """Convert a tensor to numpy; waits for the computation."""

    def predict(
        self,
        latents: Array,
        step: Step,
        conditioning: Any,
        scales: Sequence[Sequence[float]],
        shares: dict[int, Floats] | None = None,
        control_scales: Sequence[Sequence[float]] = (),
        deep: DeepPart | None = None,
        past: PastFeatures | None = None,
    ) -> Array:
        """Evaluate the UNet once on latents (N, C, h, w) in float32.

        Args:
            latents: x, not yet multiplied by the step's input_scale.
            step: The row; its timestep and input_scale are used.
            conditioning: What `condition` returned.
            scales: λ for each branch (outer) and site (inner, in the order of site numbers). A
                branch whose λ is 0 at a site is skipped there.
            shares: A dict to fill, where influence is measured (`ipa.request.influence`); it
                changes no bit of the output. For each site that is computed, by its rank in the
                order of site numbers, (1 + P, N, L) at its L queries, row by row: the share of the
                text, then of the pictures of all branches, in order; all 0 where nothing adds
                anything.
            control_scales: For each control (outer), the weights of its results on the way down
                and of the middle's, or of a T2I-Adapter's features (inner). One whose weights are
                all 0 is not run.
            deep: None computes all of the network, and so does one without a feature, which is
                given it. With one, the layers above are computed alone, of a ControlNet too; if it
                has more rows than this evaluation, the conditional ones are taken.
            past: None computes all of the network, and so does one without weights, which is given
                the last feature to keep. With weights, the last norm and what follows it are
                computed alone, of the sum that they make; no attention and no control acts.

        Returns:
            (R, N, C, h, w) with R = 2 (unconditional, conditional) if guided, else 1.
        """

    def guide(self, output: Array, guidance_scale: float, guidance_rescale: float = 0.0) -> Array:
        """Apply classifier-free guidance to what `predict` returned: (N, C, h, w)."""

    def advance(
        self,
        step: Step,
        latents: Array,
        output: Array,
        memories: Sequence[Array],
        noise: Array | None,
    ) -> tuple[Array, Array, Array]:
        """Apply a row: the next latents, the denoised estimate, and the row's own memory.

        `memories` are those of the rows before, the latest first.
        """

    def decode(self, latents: Array) -> Floats:
        """Decode latents (N, C, h, w) to pictures (N, H, W, 3) in [0, 1]."""

    def encode(self, pixels: Floats) -> tuple[Floats, Floats]:
        """Encode pictures (N, 3, H, W) in [-1, 1] to latents (N, C, h, w).

        Returns:
            The posterior's mean and standard deviation, scaled as the UNet takes them.
        """

    def load_preview_decoder(self, files: TinyVaeFiles) -> None:
        """Load a tiny decoder as `preview_decoder`. All or nothing."""

    def describe(self) -> dict[str, Any]:
        """JSON-able: versions, device, dtype, settings, bytes of each component, `warnings` of this
        run, and of what loading left out.

        LoRAs do not count among the bytes of the networks that they change.
        """

    def peak_memory(self) -> int | None:
        """Peak bytes since `reset`, or None where the framework does not count."""

    def reset(self) -> None:
        """Begin a run: count peak memory anew, forget the warnings of the run before."""
