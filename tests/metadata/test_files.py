"""Pictures with their metadata, as other people's readers read them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from ipa import RequestError
from ipa.metadata.reading import read_told
from ipa.metadata.writing import Saved, picture_file
from metadata.test_a1111 import HASHES, INFO
from oracle import a1111

KINDS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
TOLD: dict[str, Any] = {**INFO, "request": {**INFO["request"], "prompt": "a dög, 漢 \U0001f600"}}
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
NAMES = {
    "CreatorTool": "http://ns.adobe.com/xap/1.0/",
    "DigitalSourceType": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "AISystemUsed": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "AISystemVersionUsed": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "AIPromptInformation": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}


def written(kind: str, told: Any = TOLD, **saved: Any) -> bytes:
    return picture_file(PICTURE, told, kind=kind, saved=Saved(**saved), hashes=HASHES).data


def opened(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def xmp_of(image: Image.Image) -> dict[str, str]:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    text = packet.decode() if isinstance(packet, bytes) else packet
    root = ElementTree.fromstring(text[text.index("<x:xmpmeta") : text.rindex("<?xpacket")])
    found = {name: root.find(f".//{{{uri}}}{name}") for name, uri in NAMES.items()}
    return {name: str(one.text) for name, one in found.items() if one is not None}


def comment_of(image: Image.Image) -> tuple[int, str]:
    """The type of TIFF, and the text, by Pillow's reader of TIFF."""
    data = image.getexif().tobytes()[6:] if "exif" not in image.info else image.info["exif"]
    file = io.BytesIO(data.removeprefix(b"Exif\0\0"))
    directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
    directory.load(file)
    file.seek(directory[0x8769])
    inner = TiffImagePlugin.ImageFileDirectory_v2(b"MM\0*\0\0\0\x08")
    inner.load(file)
    value = bytes(inner[0x9286])
    assert value[:8] == b"UNICODE\0"
    return inner.tagtype[0x9286], value[8:].decode("utf-16-be")


@pytest.mark.parametrize("kind", KINDS)
def test_marks_by_an_independent_reader(kind: str) -> None:
    found = xmp_of(opened(written(kind)))
    assert found["DigitalSourceType"] == f"{SOURCE}compositeWithTrainedAlgorithmicMedia"
    assert found["AIPromptInformation"] == "a dög, 漢 \U0001f600"
    assert found["CreatorTool"].startswith("ipa-mlx ") and found.keys() == NAMES.keys()
    fresh = {**TOLD, "request": {**TOLD["request"], "image_sha256": []}}
    of_words = xmp_of(opened(written(kind, fresh)))
    assert of_words["DigitalSourceType"] == f"{SOURCE}trainedAlgorithmicMedia"


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_for_a1111_where_its_readers_look(kind: str) -> None:
    image = opened(written(kind))
    text = image.info["parameters"] if kind == "PNG" else comment_of(image)[1]
    prompt, _, told = a1111.read(text)
    assert prompt.startswith("a dög, 漢 \U0001f600") and told["RNG"] == "CPU"
    if kind != "PNG":
        assert comment_of(image)[0] == 7  # undefined, as EXIF says; piexif reads no other
    assert "prompt" not in image.info  # ComfyUI's


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_request_comes_back_whole(kind: str) -> None:
    told = read_told(written(kind))
    assert told.ours is not None
    assert {k: v for k, v in told.ours.items() if k != "file_hashes"} == TOLD
    assert told.ours["file_hashes"]["model"] == "0123456789"


@pytest.mark.parametrize("kind", KINDS)
def test_how_much_is_said(kind: str) -> None:
    minimal, none = written(kind, metadata="minimal"), written(kind, metadata="none")
    words = xmp_of(opened(minimal))
    assert "AIPromptInformation" not in words and "DigitalSourceType" in words
    for secret in ("dög", "grey", "pixel"):
        for form in (secret.encode(), secret.encode("utf-16-be"), secret.encode("latin-1")):
            assert form not in minimal and form not in none
    assert read_told(minimal).ours is None and not read_told(minimal).foreign
    assert {"exif", "xmp", "parameters", "XML:com.adobe.xmp"}.isdisjoint(opened(none).info)


def test_words_of_a_png_come_before_its_pixels() -> None:
    file = picture_file(PICTURE, TOLD, references=[b"abc"]).data
    assert max(file.index(name) for name in (b"ipa-mlx", b"parameters", b"adobe.xmp")) < (
        file.index(b"IDAT")
    )
    assert file.index(b"ipAm") > file.index(b"IDAT")
    assert read_told(file).contents.references == (b"abc",)
    image = opened(file)
    assert image.private_chunks == [(b"ipAm", b"abc", True)]  # type: ignore[attr-defined]


def test_pixels() -> None:
    for kind, saved in (("PNG", {}), ("WEBP", {"quality": 100})):
        assert np.array_equal(opened(written(kind, **saved)), PICTURE)
    sizes = [len(written("JPEG", quality=quality)) for quality in (30, 95)]
    assert sizes[0] < sizes[1]


def test_what_does_not_fit() -> None:
    """A segment of JPEG has 64 kB; the picture is written, and it is told."""
    long = {**TOLD, "request": {**TOLD["request"], "prompt": "x" * 70_000}}
    made = picture_file(PICTURE, long, kind="JPEG")
    assert "does not fit in a JPEG" in made.notes[0]
    assert xmp_of(opened(made.data))["DigitalSourceType"].startswith(SOURCE)
    for kind in ("PNG", "WEBP"):
        made = picture_file(PICTURE, long, kind=kind)
        assert not made.notes and read_told(made.data).ours == long
    assert (
        "no embedded references"
        in picture_file(PICTURE, TOLD, kind="WEBP", references=[b"x"]).notes[0]
    )
    with pytest.raises(RequestError, match="limit is 16383"):
        picture_file(Image.new("RGB", (16384, 1)), kind="WEBP")
    for wrong in ({"metadata": "some"}, {"quality": 0}, {"quality": True}):
        with pytest.raises(RequestError):
            Saved(**wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_exiftool_reads_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{KINDS[kind]}"
    path.write_bytes(written(kind))
    done = subprocess.run(
        ["exiftool", "-json", "-G1", path], check=True, capture_output=True, text=True
    )
    (told,) = json.loads(done.stdout)
    assert told["XMP-iptcExt:DigitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert told["XMP-iptcExt:AIPromptInformation"] == "a dög, 漢 \U0001f600"
    assert told["XMP-xmp:CreatorTool"].startswith("ipa-mlx")
    text = told["PNG:Parameters" if kind == "PNG" else "ExifIFD:UserComment"]
    assert text.startswith("a dög, 漢") and "RNG: CPU" in text
    assert not any("Warning" in key or "Error" in key for key in told)


@pytest.mark.parametrize("kind", KINDS)
def test_sd_prompt_reader_reads_it(kind: str, tmp_path: Path) -> None:
    """Where its modules can be imported: as a package it needs a desktop and an old Pillow."""
    reader = pytest.importorskip("sd_prompt_reader.image_data_reader").ImageDataReader
    path = tmp_path / f"x.{KINDS[kind]}"
    path.write_bytes(written(kind))
    found = reader(str(path))
    assert found.status.name == "READ_SUCCESS" and found.tool == "A1111 webUI"
    assert found.positive.startswith("a dög, 漢 \U0001f600")
    wanted = {"sampler": "DPM++ 2M", "seed": str(2**63), "cfg": "7", "steps": "20"}
    assert {key: found.parameter[key] for key in wanted} == wanted
