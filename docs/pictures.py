"""Makes the pictures of the pages with the demo. Run: python docs/pictures.py [folder [steps]].

They are kept in the repository: run it again after a change of the demo's model or of sheets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import ipa
from ipa import Control, ImagePrompt, demo
from ipa.controls import edges
from ipa.sheets import (
    Axis,
    SheetBlock,
    SheetCell,
    SheetRow,
    Sweep,
    draw_sheet,
    make_cells,
    overlay,
    sweep_blocks,
)

CELL = (96, 96)
LEFT = np.tile(np.arange(64) < 32, (64, 1))
Call = Mapping[str, Any]


def row(title: str, *pictures: Image.Image | None) -> SheetRow:
    """A row of a sheet; None is an empty place."""
    return SheetRow(
        title, [None if picture is None else SheetCell(picture) for picture in pictures]
    )


def sheet(titles: list[str], *rows: SheetRow) -> Image.Image:
    """A sheet of one block."""
    return draw_sheet([SheetBlock(titles, list(rows))], cell=CELL)


def start(pipe: ipa.Pipeline, seen: list[Image.Image], call: Call) -> Image.Image:
    """Three references at four weights, and with words."""
    titles = ["reference", "weight 0.3", "0.6", "1", "with “a star”"]
    rows = []
    for picture in (seen[3], seen[0], seen[5]):
        prompts = [ImagePrompt(picture, scale=scale) for scale in (0.3, 0.6, 1.0)]
        made = [pipe(image_prompts=prompt, seed=1, **call).images[0] for prompt in prompts]
        words = pipe("a star", image_prompts=ImagePrompt(picture, scale=0.6), seed=1, **call)
        rows.append(row("", picture, *made, words.images[0]))
    return sheet(titles, *rows)


def weights(pipe: ipa.Pipeline, seen: list[Image.Image], call: Call) -> Image.Image:
    """A sweep over weights and seeds, with likeness."""
    sweep = Sweep(
        axes=[Axis("seed", [1, 2]), Axis("scale", [0, 0.25, 0.5, 0.75, 1])],
        image_prompt=ImagePrompt(seen[3]),
        arguments=call,
    )
    return draw_sheet(sweep_blocks(sweep, list(make_cells(pipe, sweep))), cell=CELL)


def two_pictures(pipe: ipa.Pipeline, seen: list[Image.Image], call: Call) -> Image.Image:
    """The outlines of one picture, the style of another."""
    titles = ["style from", "object from", "its edges", "the new picture"]
    rows = []
    for style, thing, word in ((seen[2], seen[3], "heart"), (seen[0], seen[1], "star")):
        control = Control(thing, preprocessor=edges)
        prompt = ImagePrompt(style, scale=0.8)
        made = pipe(f"a {word}", image_prompts=prompt, controls=control, seed=1, **call)
        rows.append(row("", style, thing, edges(thing), made.images[0]))
    return sheet(titles, *rows)


def regions(pipe: ipa.Pipeline, seen: list[Image.Image], call: Call) -> Image.Image:
    """A picture for each half, and where each of them acts."""
    prompt = ImagePrompt([seen[3], seen[0]], mask=[LEFT, ~LEFT])
    result = pipe(image_prompts=prompt, influence=True, seed=3, **call)
    shares = [result.influence.map(0, picture=number) for number in (0, 1)]
    peak = max(float(share.max()) for share in shares)
    heat = [overlay(result.images[0], share, peak) for share in shares]
    titles = [
        "left half",
        "right half",
        "the new picture",
        "influence of the first",
        "of the second",
    ]
    return sheet(titles, row("", seen[3], seen[0], result.images[0], *heat))


def fits(pipe: ipa.Pipeline, seen: list[Image.Image], call: Call) -> Image.Image:
    """What the encoder sees of a wide picture."""
    wide = Image.new("RGB", (112, 64), (90, 90, 90))
    wide.paste(seen[1].crop((0, 0, 56, 64)), (0, 0))
    wide.paste(seen[3].crop((8, 0, 64, 64)), (56, 0))
    ways = ["center-crop", "squash", "pad", "left"]
    views = [pipe.encoder_views(ImagePrompt(wide, fit=way))[0] for way in ways]
    return sheet(["a wide picture", *ways], row("", wide, *views))


def edited(pipe: ipa.Pipeline, seen: list[Image.Image], call: Call) -> Image.Image:
    """From a picture: img2img, inpainting, outpainting."""
    star = pipe("a red star", seed=3, **call).images[0]
    bluer = [pipe("a blue ring", image=star, strength=s, **call).images[0] for s in (0.4, 0.7)]
    right = pipe("a green heart", image=star, mask_image=~LEFT, strength=1.0, overlay=True, **call)
    canvas, new = ipa.outpaint(star, right=32)
    wider = pipe("a red star", image=canvas, mask_image=new, strength=1.0, **call)
    titles = ["start", "strength 0.4", "strength 0.7", "inpainted on the right", "outpainted"]
    return sheet(titles, row("", star, *bluer, right.images[0], wider.images[0]))


PICTURES: Mapping[str, Callable[[ipa.Pipeline, list[Image.Image], Call], Image.Image]] = {
    "start": start,
    "weights": weights,
    "two-pictures": two_pictures,
    "regions": regions,
    "fits": fits,
    "edited": edited,
}


def main(folder: Path, steps: int) -> None:
    """Write all of them, in as few colours as look the same."""
    pipe = ipa.load("demo")
    pipe.load_ip_adapter(demo.adapter("base"))
    pipe.load_controlnet(demo.controlnet())
    seen = [ipa.open_image(path) for path in demo.references()]
    call = {"num_inference_steps": steps, "guidance_scale": 4}
    folder.mkdir(exist_ok=True, parents=True)
    for name, make in PICTURES.items():
        path = folder / f"{name}.png"
        make(pipe, seen, call).quantize(192).save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    main(target, int(sys.argv[2]) if len(sys.argv) > 2 else 20)
