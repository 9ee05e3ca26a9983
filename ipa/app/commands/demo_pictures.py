"""`ipa-mlx demo --export`: the pictures that the examples name, to type them as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import typer
from PIL import Image

from ipa import demo
from ipa.app.output import save_png
from ipa.app.terminal import print_json
from ipa.errors import RequestError
from ipa.prepare.controls.preprocessors import edges
from ipa.prepare.images.pictures import open_image, to_rgb

_STYLE, _CHAIR = "orange-checkered-heart-on-gray", "green-gradient-star-on-brown"


def demo_pictures() -> dict[str, Image.Image]:
    """Three references, halves of a picture as masks, and outlines, by the names of examples."""
    by_name = {path.stem: path for path in demo.references()}
    style, chair = (to_rgb(open_image(by_name[name])) for name in (_STYLE, _CHAIR))
    left = np.zeros((chair.height, chair.width), np.uint8)
    left[:, : chair.width // 2] = 255
    return {
        "style.png": style,
        "chair.png": chair,
        "left.png": Image.fromarray(left),
        "right.png": Image.fromarray(255 - left),
        "edges.png": edges(chair),
        "object.png": to_rgb(open_image(demo.references()[3])),
    }


def export_pictures(folder: Path) -> list[Path]:
    """Write the demo's pictures into a folder, which is made if need be.

    Raises:
        RequestError: One of them is there already, or the folder cannot be made.
    """
    pictures = demo_pictures()
    there = [name for name in pictures if (folder / name).exists()]
    if there:
        raise RequestError(
            f"{folder} has pictures of these names, which are not overwritten",
            found=", ".join(there),
            remedy="give another folder",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            save_png(picture, folder / name)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written to", found=str(error)) from error
    return [folder / name for name in pictures]


def show_exported(paths: Sequence[Path], *, as_json: bool) -> None:
    """Print the names of the pictures that were written."""
    if as_json:
        print_json({"files": [str(path.resolve()) for path in paths]})
        return
    for path in paths:
        typer.echo(path)
