"""`ipa-mlx explain`: the weight of image prompts at every layer and step, before any run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipa import bases
from ipa.app.generate import parse_image_prompt
from ipa.app.heat import colour, heat_map
from ipa.app.output import output_paths, save_png
from ipa.app.terminal import print_json
from ipa.contract.base_sites import structure_name
from ipa.contract.image_prompt import ImagePrompt
from ipa.contract.model import ModelFolder, SingleFile
from ipa.contract.request import Request
from ipa.contract.sites import Site, transformers
from ipa.contract.weights import Scale
from ipa.plan import plan_schedule
from ipa.prepare.curves import Doubles
from ipa.prepare.lambdas import lambda_table
from ipa.prepare.model_folder import open_configs
from ipa.prepare.moved import moved_sites
from ipa.prepare.profiles import profile_named
from ipa.prepare.scales import place
from ipa.prepare.sources import resolve_model
from ipa.prepare.windows import open_steps

MARK = "*"
_BARS = "▁▂▃▄▅▆▇█"
_LABELS = 44  # columns of a terminal that are not cells


@dataclass(frozen=True, slots=True)
class Row:
    """Sites with the same weights: a transformer's, or one alone. `values` has one λ per step.

    `place` ends with a mark where tokens are moved to the unconditional half.
    """

    order: int
    place: str
    numbers: tuple[int, ...]
    values: Doubles

    @property
    def sites(self) -> str:
        """Their numbers, shortened."""
        first, last = self.numbers[0], self.numbers[-1]
        return str(first) if first == last else f"{first}-{last}"


@dataclass(frozen=True, slots=True)
class Explained:
    """One image prompt: what it is called, what was asked for, and λ (sites, steps).

    `moved` says for each site whether its tokens go to the unconditional half; None is nowhere.
    """

    title: str
    asked: dict[str, Any]
    table: Doubles
    moved: tuple[bool, ...] | None = None

    @property
    def heading(self) -> str:
        """The title, with a word on the mark where there is one."""
        return self.title if self.moved is None else f"{self.title}   {MARK} unconditional"

    @property
    def caption(self) -> str | None:
        """What the mark means, where there is one."""
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
        """Sites in the order of execution, those of a transformer together if they are alike."""
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
        """JSON-able: λ of every prompt by site, in the order of site numbers, and step."""
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


def prompts_to_explain(texts: Sequence[str]) -> list[ImagePrompt]:
    """The image prompts of the options; without any, one that stands for all."""
    return [parse_image_prompt(text) for text in texts] or [ImagePrompt(Image.new("L", (1, 1)))]


def explain_weights(
    model: str,
    prompts: Sequence[ImagePrompt],
    titles: Sequence[str],
    scale: Scale,
    request: Request,
) -> Explanation:
    """λ of image prompts on a model of which only the configs are read.

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


def show_explanation(found: Explanation, output: Path | None, *, as_json: bool) -> None:
    """Print the weights as bars, or as JSON; and draw them to a file if one is named."""
    if output is not None:
        (target,) = output_paths(output, 1)
        maps = [(prompt.heading, found.rows(prompt)) for prompt in found.prompts]
        output = save_png(heat_map(maps, found.steps), target, found.describe())
    if as_json:
        print_json(found.describe())
        return
    console = Console(highlight=False)
    built = f", built as {found.base}" if found.base else ""
    console.print(f"{found.model}: {len(found.sites)} cross-attentions{built}", markup=False)
    for prompt in found.prompts:
        console.print(_bars(found, prompt, console.width))
    if output is not None:
        console.print(str(output.resolve()), markup=False, soft_wrap=True)


def _bars(found: Explanation, prompt: Explained, width: int) -> Table:
    """One line per row of weights: its place, a bar for each step, and the largest and least λ."""
    stride = math.ceil(found.steps / max(1, width - _LABELS))
    shown = "" if stride == 1 else f", one of {stride} shown"
    table = Table(box=None, title=Text(prompt.title, style="bold"), title_justify="left")
    table.caption, table.caption_justify = prompt.caption, "left"
    table.add_column("#", justify="right")
    table.add_column("layer", no_wrap=True)
    table.add_column("sites", no_wrap=True)
    table.add_column(f"λ over {found.steps} steps{shown}", no_wrap=True)
    table.add_column("least", justify="right")
    table.add_column("most", justify="right")
    peak = float(np.abs(prompt.table).max())
    for row in found.rows(prompt):
        bars = Text.assemble(*(_bar(float(value), peak) for value in row.values[::stride]))
        ends = (f"{end:.3g}" for end in (row.values.min(), row.values.max()))
        table.add_row(str(row.order), row.place, row.sites, bars, *ends)
    return table


def _bar(value: float, peak: float) -> tuple[str, str]:
    """A character as high as |λ| and its style; a dot where the prompt is off."""
    if value == 0.0:
        return "·", "dim"
    height = math.ceil(abs(value) / peak * len(_BARS))
    red, green, blue = colour(value / peak)
    return _BARS[max(0, height - 1)], f"rgb({red},{green},{blue})"
