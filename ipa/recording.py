"""What a run keeps of the shares of its image prompts, step by step."""

from __future__ import annotations

import numpy as np

from ipa.contract.backend import Floats
from ipa.contract.influence import Halves, Influence
from ipa.contract.model import ModelFolder
from ipa.plan import Plan
from ipa.prepare.masks import Canvas


class Recording:
    """Takes what the backend measures, and becomes an `Influence` when the run ends."""

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
        """Pictures of an image prompt, in the order in which the backend is given them."""
        self._pictures[prompt] += pictures

    def take(self, shares: list[Floats]) -> None:
        """One step: what `Backend.predict` measured. The text's share is what others leave."""
        self._steps.append(
            [
                site[1:].swapaxes(0, 1).reshape(site.shape[1], -1, *grid).astype(np.float16)
                for site, grid in zip(shares, self._grids, strict=True)
            ]
        )

    def influence(self) -> Influence:
        """All steps."""
        return Influence(
            pictures=tuple(self._pictures),
            sites=self._sites,
            size=self._size,
            shares=tuple(np.stack(site) for site in zip(*self._steps, strict=True)),
            crops=self._crops,
        )
