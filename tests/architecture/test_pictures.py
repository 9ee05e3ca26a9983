"""Pictures that people give come in by one entry, `ipa.request.pictures`, and by no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ipa", "ipa_mlx", "ipa_torch", "convert")
MODES = {"1", "L", "LA", "RGB", "RGBA", "RGBX", "F", "I"}
OPENS = {
    "ipa/prepare/images/pictures.py": "open_image, which repairs what it opens",
    "ipa/metadata/container.py": "reads the texts of a JPEG or WebP, and no pixel",
}
CONVERTS = {
    "ipa/request/masks.py": "the luminance of what eight_bits gave",
    "ipa/prepare/images/pictures.py": "to_rgb of what eight_bits gave",
    "ipa/prepare/editing/inpainting.py": "masks of mask_picture, pictures of to_rgb",
    "ipa/prepare/controls/pixels.py": "what was resized of what eight_bits gave",
    "ipa/sheets/mask_overlay.py": "of to_rgb",
    "ipa/prepare/controls/preprocessors.py": "lines that were found",
}
TURNS = {"ipa/request/pictures.py": "the entry itself"}


def _calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    for path in (p for folder in PACKAGES for p in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name:
                yield str(path.relative_to(ROOT)), node


def test_files_are_opened_in_one_place() -> None:
    found = {path for path, call in _calls("open") if ast.unparse(call.func) == "Image.open"}
    assert found == OPENS.keys()


def test_modes_are_converted_behind_the_entry() -> None:
    """`convert` of a picture that somebody gave would clip it; a picture of ours has no faults."""
    found = {
        path
        for path, call in _calls("convert")
        if call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value in MODES
    }
    assert found == CONVERTS.keys()


def test_exif_is_read_in_one_place() -> None:
    assert {path for path, _ in _calls("exif_transpose")} == TURNS.keys()
    assert {path for path, _ in _calls("getexif")} == TURNS.keys()
