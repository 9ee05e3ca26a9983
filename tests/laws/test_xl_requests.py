"""What SDXL is told beside its prompt: what is refused, what is reported, what a batch does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipa import CheckpointError, Pipeline, RequestError
from oracle.measure import relative

Open = Callable[..., Pipeline]
QUICK: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "width": 64,
    "height": 48,
    "output_type": "latent",
    "seed": 5,
}
ROUNDING = 5e-6  # relative L2 where only the order of sums changes; measured 1.1e-6


@pytest.fixture(scope="module")
def pipe(tiny_xl: Path, backend: str, open_pipeline: Open) -> Pipeline:
    return open_pipeline(tiny_xl, backend, "linear")


BOTH = {"negative_original_size": (64, 64), "negative_target_size": (64, 64)}
CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "one number": ({"original_size": 512}, "original_size must be two integers; found: 512"),
    "three numbers": ({"target_size": (1, 2, 3)}, "target_size must be two integers"),
    "a fraction": ({"target_size": (512.5, 512)}, r"target_size\[\d\] must be an integer"),
    "a truth": ({"target_size": (True, 512)}, r"target_size\[\d\] must be an integer"),
    "a negative crop": ({"crops_coords_top_left": (-8, 0)}, "from 0 to 65536; found: -8"),
    "absurd": ({"negative_target_size": (1 << 17, 8)}, r"negative_target_size\[\d\]"),
    "no text": ({"prompt_2": 7}, "prompt_2 must be a string"),
    "half a character": ({"prompt_2": "\ud83d"}, "surrogate"),
    "a second negative prompt alone": (
        {"negative_prompt_2": "red"},
        'no effect without negative_prompt.*pass negative_prompt=""',
    ),
    "half of the negative sizes": (
        {"negative_original_size": (64, 64)},
        "no effect without both.*found: negative_original_size",
    ),
    "a negative crop alone": (
        {"negative_crops_coords_top_left": (8, 8)},
        "no effect without both.*found: negative_crops_coords_top_left",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_cannot_be_honoured(name: str, pipe: Pipeline) -> None:
    arguments, words = CALLS[name]
    with pytest.raises(RequestError, match=words):
        pipe.stream(**(QUICK | arguments))


@pytest.mark.parametrize(
    "name",
    [
        "prompt_2",
        "negative_prompt_2",
        *(
            f"{prefix}{name}"
            for prefix in ("", "negative_")
            for name in ("original_size", "crops_coords_top_left", "target_size")
        ),
    ],
)
def test_models_with_one_text_encoder_take_none_of_it(
    name: str, tiny: Path, backend: str, open_pipeline: Open
) -> None:
    own = open_pipeline(tiny, backend)
    with pytest.raises(RequestError, match=rf"takes no {name}; found: a model with one text"):
        own.stream(**(QUICK | {name: "red" if "prompt" in name else (8, 8)}))


def test_every_argument_has_an_effect(pipe: Pipeline) -> None:
    start: dict[str, Any] = QUICK | BOTH | {"negative_prompt": "a cat"}
    base = pipe("a star", **start).latents
    changes: list[dict[str, Any]] = [
        {"prompt_2": "a ring"},
        {"negative_prompt_2": "a ring"},
        {"negative_prompt": None},
        {"original_size": (48, 65)},
        {"crops_coords_top_left": (1, 0)},
        {"crops_coords_top_left": (0, 1)},
        {"target_size": (49, 64)},
        {"negative_original_size": (65, 64)},
        {"negative_crops_coords_top_left": (0, 1)},
        {"negative_target_size": (64, 65)},
    ]
    for change in changes:
        assert not np.array_equal(pipe("a star", **(start | change)).latents, base), change


def test_defaults_may_be_spelled_out(pipe: Pipeline) -> None:
    size = (48, 64)
    given = {"original_size": list(size), "crops_coords_top_left": (0, 0), "target_size": size}
    spelled = given | {f"negative_{name}": pair for name, pair in given.items()}
    bare = pipe("a star", **QUICK).latents
    assert np.array_equal(pipe("a star", prompt_2="a star", **QUICK, **spelled).latents, bare)


def test_batch_is_single_runs_with_negative_sizes(pipe: Pipeline) -> None:
    """diffusers gives its second picture the numbers of the other half there."""
    batch = pipe("a star", **QUICK, **BOTH, num_images=2).latents
    for number in range(2):
        alone = pipe("a star", **(QUICK | BOTH | {"seed": 5 + number})).latents
        assert relative(batch[number], alone[0]) < ROUNDING


def test_result_says_how_to_run_it_again(pipe: Pipeline) -> None:
    told = {"prompt_2": "a ring", "crops_coords_top_left": (np.int64(8), 0), **BOTH}
    result = pipe("a star", **QUICK, **told)
    request = json.loads(json.dumps(result.info))["request"]
    assert request["original_size"] == [48, 64]
    names = (
        *("prompt_2", "negative_prompt", "negative_prompt_2"),
        *(name for name in request if name.endswith(("_size", "_left"))),
        *("width", "height", "num_inference_steps", "guidance_scale", "seed"),
    )
    again = pipe(request["prompt"], output_type="latent", **{k: request[k] for k in names})
    assert np.array_equal(again.latents, result.latents)


def test_a_text_that_does_not_fit_is_told_once(pipe: Pipeline) -> None:
    long = "a red star and a blue ring " * 20
    cut = pipe(long, **QUICK).info["warnings"]
    assert len(cut) == 1 and cut[0].startswith("prompt is too long")
    cut = pipe("a star", prompt_2=long, **QUICK).info["warnings"]
    assert len(cut) == 1 and cut[0].startswith("prompt_2 is too long")


def changed(tiny_xl: Path, folder: Path, file: str, **changes: Any) -> Path:
    shutil.copytree(tiny_xl, folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


FOLDERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "zeros": ("model_index.json", {"force_zeros_for_empty_prompt": "no"}, "true or false"),
    "inpainting": ("unet/config.json", {"in_channels": 9}, "conv_in"),
    "tokenizers": ("tokenizer_2/tokenizer_config.json", {"model_max_length": 20}, "77 and 20"),
    "shallow": ("text_encoder_2/config.json", {"num_hidden_layers": 2}, "text_encoder_2"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_model_that_is_not_in_order(
    name: str, tiny_xl: Path, backend: str, open_pipeline: Open, tmp_path: Path
) -> None:
    file, changes, words = FOLDERS[name]
    folder = changed(tiny_xl, tmp_path / "model", file, **changes)
    with pytest.raises(CheckpointError, match=words):
        open_pipeline(folder, backend)


def test_adapters_of_another_base_are_refused(own: Pipeline, tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="another base model; found: context width 40"):
        own.load_ip_adapter(tiny / "linear.safetensors", name="other")


def test_default_size_is_the_model_s_own(
    tiny_xl: Path, backend: str, open_pipeline: Open, tmp_path: Path
) -> None:
    call = QUICK | {"width": None, "height": None, "num_inference_steps": 1}
    own = open_pipeline(tiny_xl, backend)
    assert own("a star", **call).latents.shape == (1, 4, 8, 8)
    folder = changed(tiny_xl, tmp_path / "model", "unet/config.json", sample_size=None)
    events = open_pipeline(folder, backend).stream("a star", **(call | {"output_type": "pil"}))
    events.close()
