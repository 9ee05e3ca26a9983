"""The JSON Schema of a request: what it allows is read, and what it says is what the code says."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ipa.engine.document import read_job
from ipa.errors import RequestError
from ipa.pipeline.documents.arguments import read_arguments, readable_names
from ipa.pipeline.documents.json_schema import request_schema
from ipa.pipeline.documents.pictures import InlinePictures, PathPictures
from ipa.request.control import Control
from ipa.request.image_prompt import ImagePrompt

SCHEMA = request_schema()
TWO = ["a.png", "a.png"]
ALLOWED: list[dict[str, Any]] = [
    {},
    {"prompt": "a star", "negative_prompt": ["a", None], "seed": 3, "num_images": 2},
    {"prompt": ["a", "b"], "width": 64, "height": None, "guidance_scale": 3},
    {"image_prompts": [{"image": "a.png", "scale": 0.5, "layers": "style", "fit": "pad"}]},
    {"image_prompts": [{"image": TWO, "scale": [0.5, {"down": 1.0}], "curve": [[0, 1.0]]}]},
    {"image_prompts": [{"image": TWO, "negative": "noise", "mask": ["a.png", None]}]},
    {"controls": [{"image": "a.png", "scale": [1.0] * 13, "guess_mode": True}]},
    {"image": "a.png", "mask_image": "a.png", "strength": 0.5, "loras": {"x": 0.5}},
    {"original_size": [64, 64], "timesteps": [900, 500.5], "preview": "latent"},
]
REFUSED: list[dict[str, Any]] = [
    {"promt": "x"},
    {"seed": "3"},
    {"image_prompts": {"image": "a.png"}},
    {"image_prompts": [{"picture": "a.png"}]},
    {"loras": ["x"]},
    {"original_size": [64]},
    {"latents": [1.0]},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    return tmp_path


@pytest.mark.parametrize("number", range(len(ALLOWED)))
def test_what_it_allows_is_read(number: int, folder: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(ALLOWED[number], SCHEMA)
    read_arguments(ALLOWED[number], PathPictures(folder))


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_it_refuses(number: int) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(REFUSED[number], SCHEMA)


def test_every_field_is_there_with_words() -> None:
    assert set(SCHEMA["properties"]) == readable_names()
    for name, kind in (("ImagePrompt", ImagePrompt), ("Control", Control)):
        shown = set(SCHEMA["$defs"][name]["properties"])
        hidden = {field.name for field in fields(kind)} - shown
        assert hidden <= {"face", "preprocessor"}
    for entry in (SCHEMA, *SCHEMA["$defs"].values()):
        assert all(one["description"] for one in entry.get("properties", {}).values())
    json.dumps(SCHEMA)


def test_a_job_of_another_version_is_refused() -> None:
    assert read_job({"model": "demo"}, InlinePictures()).needs.model == "demo"
    with pytest.raises(RequestError, match="version"):
        read_job({"ipa": 2}, InlinePictures())
    with pytest.raises(RequestError, match="did you mean adapters"):
        read_job({"adaptors": []}, InlinePictures())


def test_strangers_name_no_paths() -> None:
    with pytest.raises(RequestError, match="by a path here"):
        read_arguments({"image": "/etc/passwd"}, InlinePictures())
