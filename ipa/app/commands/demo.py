"""`ipa-mlx demo`: pictures that follow reference pictures the model has never seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from ipa import demo
from ipa.app.options.loading import ModelOptions
from ipa.app.output import save_png
from ipa.app.terminal import progress_bar
from ipa.arrays import Floats
from ipa.pipeline.pipeline import Pipeline
from ipa.prepare.images.pictures import open_image, to_rgb
from ipa.request.image_prompt import ImagePrompt
from ipa.sheets.sheet import contact_sheet
from ipa.watching import CancelSignal

STEPS, GUIDANCE, MIX_SCALE = 8, 4.0, 0.7
SCALES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference picture and what its file name says it shows."""

    image: Image.Image
    colour: str
    pattern: str
    shape: str
    background: str

    @classmethod
    def open(cls, path: Path) -> Reference:
        """Open a file called colour-pattern-shape-on-background.png."""
        colour, pattern, shape, _, background = path.stem.split("-")
        return cls(to_rgb(open_image(path)), colour, pattern, shape, background)

    @property
    def caption(self) -> str:
        """The picture in words that the demo's text encoder knows."""
        return f"a {self.colour} {self.pattern} {self.shape} on a {self.background} background"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the sheet: its title, its prompt for a row, and the label below."""

    title: str
    make: Callable[[Reference, Reference], tuple[str, list[ImagePrompt]]]
    label: Callable[[Reference, Reference], str] = lambda reference, other: ""


def columns() -> list[Column]:
    """The columns of the sheet beside the reference; `other` is the reference of another row."""
    return [
        Column("words only", lambda r, _: (r.caption, []), lambda r, _: f"{r.pattern} {r.shape}"),
        *map(_picture_at, SCALES),
        Column(
            "picture + words",
            lambda r, o: (f"a {o.shape}", [ImagePrompt(r.image, scale=MIX_SCALE)]),
            lambda _, o: f"“a {o.shape}”",
        ),
        Column(
            "two pictures",
            lambda r, o: ("", [ImagePrompt([r.image, o.image])]),
            lambda _, o: f"+ {o.colour} {o.shape}",
        ),
    ]


def _picture_at(scale: float) -> Column:
    return Column(f"picture at {scale:g}", lambda r, _: ("", [ImagePrompt(r.image, scale=scale)]))


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """What the demo did: where the sheet is, and how well pictures followed.

    `likeness` has one row per scale: the mean cosine, in the demo's own CLIP space, of a picture to
    its own reference and to the other references.
    """

    sheet: Path
    pictures: int
    seconds: float
    likeness: list[dict[str, float]]
    backend: dict[str, Any]


def run_demo(
    output: Path, *, backend: str | None, count: int, cancel: CancelSignal | None = None
) -> DemoReport:
    """Render the sheet of the first `count` references to `output`."""
    began = time.perf_counter()
    opening = ModelOptions(backend=backend)
    pipe = opening.open(opening.folder())
    references = [Reference.open(path) for path in demo.references()[:count]]
    others = [*references[1:], references[0]]
    kinds = columns()
    made: list[list[Image.Image]] = []
    with progress_bar(STEPS * len(kinds) * len(references)) as bar:
        for seed, (reference, other) in enumerate(zip(references, others, strict=True)):
            row = []
            for kind in kinds:
                bar.describe(f"{reference.colour} {reference.shape}: {kind.title}")
                prompt, image_prompts = kind.make(reference, other)
                result = pipe(
                    prompt,
                    image_prompts=image_prompts,
                    num_inference_steps=STEPS,
                    guidance_scale=GUIDANCE,
                    seed=seed,
                    on_progress=bar,
                    cancel=cancel,
                )
                row.append(result.images[0])
            made.append(row)
    rows = [[r.image, *row] for r, row in zip(references, made, strict=True)]
    labels = [
        [f"{r.pattern} {r.shape}", *(kind.label(r, o) for kind in kinds)]
        for r, o in zip(references, others, strict=True)
    ]
    sheet = contact_sheet(rows, ["reference", *(k.title for k in kinds)], labels)
    return DemoReport(
        sheet=save_png(sheet, output),
        pictures=len(kinds) * len(references),
        seconds=time.perf_counter() - began,
        likeness=_likeness(pipe, references, made),
        backend=pipe.info(),
    )


def _likeness(
    pipe: Pipeline, references: Sequence[Reference], made: Sequence[Sequence[Image.Image]]
) -> list[dict[str, float]]:
    """Mean cosines to the own and to the other references, for each scale."""
    targets = _normalised(pipe.embed_images([r.image for r in references]))
    rows = []
    for column, scale in enumerate(SCALES, start=1):
        cosines = _normalised(pipe.embed_images([row[column] for row in made])) @ targets.T
        same = float(np.diag(cosines).mean())
        away = (float(cosines.sum()) - same * len(references)) / max(
            1, cosines.size - len(references)
        )
        rows.append({"scale": scale, "own": round(same, 4), "others": round(away, 4)})
    return rows


def _normalised(embeddings: Floats) -> Floats:
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True))


def show_demo(report: DemoReport) -> None:
    """Print what the demo measured, and where its sheet is."""
    table = Table()
    for title in ("scale", "own reference", "other references"):
        table.add_column(title, justify="right")
    for row in report.likeness:
        table.add_row(f"{row['scale']:.2f}", f"{row['own']:.3f}", f"{row['others']:.3f}")
    console = Console()
    console.print("Likeness to the reference: cosine in the demo's own CLIP space")
    console.print(table)
    described = (
        f"{report.pictures} pictures in {report.seconds:.1f} s on {report.backend['backend']}"
    )
    console.print(f"{described} ({report.backend['device']}, {report.backend['dtype']})")
    typer.echo(f"Sheet: {report.sheet.resolve()}")
