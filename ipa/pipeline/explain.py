"""The weights of a request, layer by layer and step by step, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from ipa import bases
from ipa.arrays import Doubles
from ipa.model.folder import ModelFolder, SingleFile
from ipa.model.sites import Site, structure_name, transformers
from ipa.prepare.scaling.curves import open_steps
from ipa.prepare.scaling.lambdas import lambda_table
from ipa.prepare.scaling.precise import moved_sites
from ipa.prepare.scaling.scales import place
from ipa.request.image_prompt import ImagePrompt
from ipa.request.profiles import profile_named
from ipa.request.request import Request
from ipa.request.scales import Scale
from ipa.sources.model_folder import open_configs
from ipa.sources.models import resolve_model

from .plan import plan_schedule

MARK = "*"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of sites with the same weights: a transformer's, or one alone. `values`: λ per step.

    `place` ends with a mark where tokens are moved to the unconditional half.
    """

    order: int
    place: str
    numbers: tuple[int, ...]
    values: Doubles

    @property
    def sites(self) -> str:
        """The numbers of the sites, shortened."""
        first, last = self.numbers[0], self.numbers[-1]
        return str(first) if first == last else f"{first}-{last}"


@dataclass(frozen=True, slots=True)
class Explained:
    """An image prompt with its weights: its name, what was asked for, and λ (sites, steps).

    `moved` says for each site whether its tokens go to the unconditional half; None is nowhere.
    """

    title: str
    asked: dict[str, Any]
    table: Doubles
    moved: tuple[bool, ...] | None = None

    @property
    def heading(self) -> str:
        """The title, with a remark on the mark where there is one."""
        return self.title if self.moved is None else f"{self.title}   {MARK} unconditional"

    @property
    def caption(self) -> str | None:
        """The meaning of the mark, where there is one."""
        return None if self.moved is None else f"{MARK} its tokens go to the unconditional half"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The weights of a request on a model; `steps` counts evaluations of the network."""

    model: str
    base: str | None
    sites: tuple[Site, ...]
    steps: int
    prompts: tuple[Explained, ...]
    profile: str | None = None

    def rows(self, prompt: Explained) -> list[Row]:
        """The rows in the order of execution, a transformer's sites together if alike."""
        rows = []
        for order, transformer in enumerate(transformers(self.sites)):
            ranks = [r for r, site in enumerate(self.sites) if site.transformer == transformer]
            for _, group in groupby(ranks, key=lambda rank: prompt.table[rank].tobytes()):
                alike = list(group)
                numbers = tuple(self.sites[rank].number for rank in alike)
                moved = prompt.moved is not None and prompt.moved[alike[0]]
                label = f"{place(transformer)} {MARK}" if moved else place(transformer)
                rows.append(Row(order, label, numbers, prompt.table[alike[0]]))
        return rows

    def describe(self) -> dict[str, Any]:
        """The weights, JSON-able: λ of every prompt by site, in order of numbers, and step."""
        return {
            "model": self.model,
            "built_as": self.base,
            "steps": self.steps,
            "profile": profile_named(self.profile).name,
            "sites": [{"number": site.number, "path": site.path} for site in self.sites],
            "image_prompts": [
                {
                    "title": prompt.title,
                    **prompt.asked,
                    "lambda": prompt.table.tolist(),
                    "moved": prompt.moved,
                }
                for prompt in self.prompts
            ],
        }


def explain_weights(
    model: str,
    prompts: Sequence[ImagePrompt],
    titles: Sequence[str],
    scale: Scale,
    request: Request,
) -> Explanation:
    """The λ of image prompts on a model of which only the configs are read.

    Args:
        model: As for `ipa.load`; or sd15, sd2 or sdxl, whose configs are built in.
        prompts: The image prompts; their pictures are not looked at.
        titles: What they are called; may be empty.
        scale: For prompts that have none.
        request: Its steps and sampler, which evaluate the network once a column, and its profile,
            whose windows are its own.

    Raises:
        CheckpointError: There is no such model.
        RequestError: The weights do not fit it.
    """
    folder, profile = _open(model), profile_named(request.profile)
    sites, times = folder.sites, plan_schedule(request, folder, None)[1]
    steps, explained = len(times.steps), []
    for prompt, title in zip(prompts, titles or ["any image prompt"], strict=True):
        asked = {
            "adapter": prompt.adapter,
            "scale": scale if prompt.scale is None else prompt.scale,
            "layers": prompt.layers,
            "curve": prompt.curve,
            "start": prompt.start,
            "end": prompt.end,
        }
        window = open_steps(profile.window, prompt.start, prompt.end, times)
        table = lambda_table(prompt, scale, sites, steps, window, profile)
        explained.append(Explained(title, asked, table, moved_sites(prompt.layers, sites)))
    base = structure_name(sites)
    return Explanation(model, base, sites, steps, tuple(explained), request.profile)


def _open(model: str) -> ModelFolder:
    for base in get_args(bases.Base):
        if model == base and not Path(model).exists():
            file = SingleFile(path=Path(model), vocabulary=bases.vocabulary(), changes={})
            return open_configs(bases.folder(base), name=model, single_file=file)
    return resolve_model(model)
