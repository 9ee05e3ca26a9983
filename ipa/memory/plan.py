"""The memory plan of a run as a value: what each stage holds and needs, in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ipa.errors import RequestError

GIB = 1 << 30

STAGES = ("text", "images", "encode", "condition", "denoise", "decode")
"""The stages of a run that have memory of their own, in the order in which they run.

"text" encodes prompts, "images" the pictures of image prompts, "encode" a start picture, mask
picture or likewise by the VAE, "condition" makes keys and values and embeds control pictures,
"denoise" is one evaluation of the network with its controls, "decode" makes one picture of latents.
"""


def in_words(count: int) -> str:
    """Bytes for a person: "3.42 GiB", "57 MiB"."""
    return f"{count / GIB:.2f} GiB" if count >= GIB // 10 else f"{count / (1 << 20):.0f} MiB"


@dataclass(frozen=True, slots=True)
class StageMemory:
    """The memory of one stage, in bytes.

    Attributes:
        name: One of `STAGES`.
        resident: The bytes of each component that is held while it runs, used or not, by its name:
            "unet", "vae", "text_encoder", "text_encoder_2", "image_encoder", "adapter NAME",
            "controlnet NAME", "lora NAME", "preview_decoder", and "kept" for what earlier stages
            made for later ones.
        working: The most that the stage allocates beside that at any moment.
    """

    name: str
    resident: Mapping[str, int]
    working: int

    @property
    def held(self) -> int:
        """The bytes of all that is held."""
        return sum(self.resident.values())

    @property
    def peak(self) -> int:
        """The most bytes at any moment of the stage."""
        return self.held + self.working

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "name": self.name,
            "resident": dict(self.resident),
            "working": self.working,
            "peak": self.peak,
        }


@dataclass(frozen=True, slots=True)
class Offer:
    """One change that lowers the peak.

    Attributes:
        name: For programs: "staged", "strips", "quantize 8", "quantize 4", "fewer pictures",
            "smaller", or several joined by " + ".
        words: What to do, as a person says it.
        peak: The peak that the plan would have, in bytes.
        same_picture: Whether the picture stays the same, but for rounding.
    """

    name: str
    words: str
    peak: int
    same_picture: bool

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        fields = {"name": self.name, "words": self.words, "peak": self.peak}
        return {**fields, "same_picture": self.same_picture}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The stages of a run in the order in which they run, and whether they fit.

    Attributes:
        stages: Each stage that the run has.
        budget: The bytes that may be used; None is no limit.
        staged: Whether components are loaded for their stages and released after them. Without it
            every component is held all the time.
        offers: What would lower the peak, each from this plan on; empty where it was not asked.
        notes: What is left out of the figures, in words.
    """

    stages: tuple[StageMemory, ...]
    budget: int | None = None
    staged: bool = False
    offers: tuple[Offer, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> int:
        """The most bytes at any moment of the run."""
        return max((stage.peak for stage in self.stages), default=0)

    @property
    def largest(self) -> StageMemory:
        """The stage that takes the most. Raises ValueError where there is none."""
        return max(self.stages, key=lambda stage: stage.peak)

    @property
    def fits(self) -> bool:
        """Whether the peak is within the budget; true without one."""
        return self.budget is None or self.peak <= self.budget

    def stage(self, name: str) -> StageMemory:
        """The stage of a name. Raises KeyError if the run has none such."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def require_fit(self) -> None:
        """Raise RequestError with the numbers if the plan is over its budget.

        It names the stage, what that takes, the smallest budget that can be met, and by what.
        """
        if self.budget is None or self.fits:
            return
        at = self.largest
        found = (
            f"the stage {at.name} takes {in_words(at.peak)} "
            f"({in_words(at.held)} of weights, {in_words(at.working)} of work)"
        )
        fitting = [offer for offer in self.offers if offer.peak <= self.budget]
        fitting.sort(key=lambda offer: not offer.same_picture)
        least = min(self.offers, key=lambda offer: offer.peak, default=None)
        if fitting:
            remedy = f"{fitting[0].words}: {in_words(fitting[0].peak)}"
        elif least is not None and least.peak < self.peak:
            remedy = f"the smallest budget that can be met is {in_words(least.peak)}: {least.words}"
        else:
            remedy = f"the smallest budget that can be met is {in_words(self.peak)}"
        raise RequestError(
            f"this run does not fit the memory budget of {in_words(self.budget)}",
            found=found,
            remedy=remedy,
        )

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "staged": self.staged,
            "stages": [stage.describe() for stage in self.stages],
            "peak": self.peak,
            "budget": self.budget,
            "fits": self.fits,
            "offers": [offer.describe() for offer in self.offers],
            "notes": list(self.notes),
        }
