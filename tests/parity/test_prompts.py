"""clip_skip, long and weighted texts, learned words: whole trajectories against diffusers'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import ipa
from oracle import models, prompts
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline, run_diffusers

# Relative L2 of the final latents. Measured over all cases: torch 1.8e-6, mlx 2.0e-6. compel 2.5.1
# (chunks cut anywhere, weights over 1) in place of the oracle, once: 1.7e-6.
LIMITS = {"torch": 1e-5, "mlx": 2e-5}
SHARED: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 4.0,
    "width": 40,
    "height": 32,
    "seed": 3,
}
OLD = models.Tiny(
    unet=models.XL_UNET, second_text=models.SECOND_TEXT | {"eos_token_id": 2}, force_zeros=False
)

LONG = "a red star and a blue ring " * 12  # two chunks
NEAR = "a green heart over two yellow squares " * 11  # three
WEIGHED = "(a red:1.4) star, [blue] ((ring)) and \\(all\\) of it"
WEIGHTS = [
    ("a red", 1.4),
    (" star, ", 1.0),
    ("blue", 1 / 1.1),
    ("ring", 1.1 * 1.1),
    (" and (all) of it", 1.0),
]
NESTED = "a (red (star:1.3) and [ring]) \\(all\\)"
INNER = [("a ", 1.0), ("red ", 1.1), ("star", 1.3), (" and [ring]", 1.1), (" (all)", 1.0)]
CHUNKS = {"long_prompts": "chunks"}

# By name: the model, our arguments, and by hand what they mean: the positive text, the negative.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any] | None]] = {
    "long": (
        "tiny",
        {"prompt": LONG, "negative_prompt": "a ring", **CHUNKS},
        {"groups": [[(LONG, 1.0)]], "count": 2},
        {"groups": [[("a ring", 1.0)]], "count": 2},
    ),
    "the negative is longer, breaks": (
        "tiny",
        {"prompt": "a star BREAK a ring BREAK", "negative_prompt": NEAR, **CHUNKS},
        {"groups": [[("a star", 1.0)], [("a ring", 1.0)]], "count": 3},
        {"groups": [[(NEAR, 1.0)]], "count": 3},
    ),
    "weights": (
        "tiny",
        {"prompt": WEIGHED, "negative_prompt": "(a ring:0.6)", "prompt_syntax": "a1111"},
        {"groups": [WEIGHTS], "count": 1},
        {"groups": [[("a ring", 0.6)]], "count": 1},
    ),
    "ComfyUI's weights": (
        "tiny",
        {"prompt": NESTED, "negative_prompt": "(a ring)", "prompt_syntax": "comfyui"},
        {"groups": [INNER], "count": 1, "rule": "comfyui"},
        {"groups": [[("a ring", 1.1)]], "count": 1, "rule": "comfyui"},
    ),
    "weights, breaks, a layer less": (
        "tiny",
        {
            "prompt": WEIGHED + " BREAK " + LONG,
            "negative_prompt": "",
            "prompt_syntax": "a1111",
            "clip_skip": 1,
            **CHUNKS,
        },
        {"groups": [WEIGHTS, [(LONG, 1.0)]], "count": 3, "skip": 1},
        {"groups": [[("", 1.0)]], "count": 3},
    ),
    "SDXL": (
        "tiny_xl",
        {
            "prompt": WEIGHED,
            "prompt_2": LONG + "(more:1.2)",
            "negative_prompt": "a ring",
            "prompt_syntax": "a1111",
            **CHUNKS,
        },
        {"groups": [WEIGHTS], "second": [[(LONG, 1.0), ("more", 1.2)]], "count": 2},
        {"groups": [[("a ring", 1.0)]], "count": 2},
    ),
    "SDXL, zeros, ComfyUI's": (
        "tiny_xl",
        {"prompt": NESTED + NEAR, "prompt_syntax": "comfyui", **CHUNKS},
        {"groups": [[*INNER, (NEAR, 1.0)]], "count": 3, "rule": "comfyui"},
        None,
    ),
}


def theirs(name: str, pipe: Any, references: list[Image.Image]) -> np.ndarray:
    _, _, positive, negative = CASES[name]
    told: dict[str, Any] = {}
    for prefix, words in (("", positive), ("negative_", negative)):
        if words is not None:
            embeds, pooled = prompts.prompt_embeds(pipe, **({"rule": "a1111"} | words))
            told[f"{prefix}prompt_embeds"] = embeds
            if pooled is not None:
                told[f"{prefix}pooled_prompt_embeds"] = pooled
    if negative is None:
        told["negative_prompt_embeds"] = torch.zeros_like(told["prompt_embeds"])
        told["negative_pooled_prompt_embeds"] = torch.zeros_like(told["pooled_prompt_embeds"])
    return run_oracle(pipe, prompt=None, images=[[references[1]]], scale=0.6, **told)


def run_oracle(pipe: Any, **arguments: Any) -> np.ndarray:
    return run_diffusers(pipe, arguments.pop("prompt"), **arguments, **SHARED)


@pytest.mark.parametrize("model", ["tiny", "tiny_xl"])
def test_chunks_and_weights(
    model: str,
    references: list[Image.Image],
    request: pytest.FixtureRequest,
    open_pipeline: Callable[..., ipa.Pipeline],
) -> None:
    """With an image prompt beside them; diffusers is given the states."""
    folder = request.getfixturevalue(model)
    stock = diffusers_pipeline(folder, [folder / "plus.safetensors"])
    pipes = {name: open_pipeline(folder, name, "plus") for name in LIMITS}
    for case, (of, arguments, _, _) in CASES.items():
        if of != model:
            continue
        expected = theirs(case, stock, references)
        for name, pipe in pipes.items():
            pipe.set_ip_adapter_scale(0.6)
            call = {**SHARED, **arguments, "output_type": "latent"}
            found = pipe(ip_adapter_image=[[references[1]]], **call).latents
            assert relative(found, expected) < LIMITS[name], (case, name)


@pytest.mark.parametrize("model", ["tiny", "tiny_xl"])
def test_clip_skip(
    model: str,
    request: pytest.FixtureRequest,
    open_pipeline: Callable[..., ipa.Pipeline],
) -> None:
    """diffusers' own; there the negative prompt keeps all layers, which ComfyUI's does not."""
    folder = request.getfixturevalue(model)
    stock = diffusers_pipeline(folder)
    prompts.text_model(stock)
    texts = {"prompt": "a red star", "negative_prompt": "a ring"}
    expected = {(1, None): run_oracle(stock, clip_skip=1, **texts)}
    if model == "tiny":
        expected[2, None] = run_oracle(stock, clip_skip=2, **texts)
        words = {"count": 1, "rule": "", "skip": 1}
        given = [prompts.prompt_embeds(stock, [[(t, 1.0)]], **words)[0] for t in texts.values()]
        both = {"prompt_embeds": given[0], "negative_prompt_embeds": given[1]}
        expected[1, "comfyui"] = run_oracle(stock, prompt=None, **both)
    for name, limit in LIMITS.items():
        pipe = open_pipeline(folder, name)
        for (skip, profile), latents in expected.items():
            told = {"clip_skip": skip, "profile": profile, "output_type": "latent"}
            found = pipe(**texts, **SHARED, **told).latents
            assert relative(found, latents) < limit, (name, skip, profile)


def rows(seed: int, *shape: int) -> torch.Tensor:
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_learned_words(
    tiny: Path,
    tmp_path: Path,
    references: list[Image.Image],
    open_pipeline: Callable[..., ipa.Pipeline],
) -> None:
    """One embedding, and three; diffusers reads the same files."""
    safetensors.torch.save_file({"<cat-toy>": rows(1, 40)}, tmp_path / "learned_embeds.safetensors")
    params = {"*": torch.nn.Parameter(rows(2, 3, 40))}
    about = {"string_to_token": {"*": 265}, "step": 5, "sd_checkpoint": None}
    torch.save({**about, "string_to_param": params, "name": "manyfold"}, tmp_path / "many.pt")
    stock = diffusers_pipeline(tiny, [tiny / "linear.safetensors"])
    stock.load_textual_inversion(str(tmp_path))
    stock.load_textual_inversion(str(tmp_path), weight_name="many.pt")
    texts = {"prompt": "a manyfold <cat-toy>, red", "negative_prompt": "no manyfold"}
    theirs = run_oracle(stock, **texts, images=[references[0]], scale=0.5)
    for name, limit in LIMITS.items():
        pipe = open_pipeline(tiny, name, "linear")
        pipe.set_ip_adapter_scale(0.5)
        assert pipe.load_textual_inversion(tmp_path) == "<cat-toy>"
        assert pipe.load_textual_inversion(tmp_path / "many.pt") == "manyfold"
        found = pipe(**texts, ip_adapter_image=references[0], output_type="latent", **SHARED)
        assert relative(found.latents, theirs) < limit
        assert [w["token"] for w in pipe.info()["textual_inversions"]] == ["<cat-toy>", "manyfold"]
        described = found.info["request"]["textual_inversions"]
        assert [(w["file"], w["vectors"]) for w in described][1] == ("many.pt", 3)


@pytest.mark.parametrize("end", [673, 2])
def test_learned_words_of_sdxl(
    end: int,
    tiny_xl: Path,
    tmp_path: Path,
    open_pipeline: Callable[..., ipa.Pipeline],
) -> None:
    """With configs that say an end token of 2, transformers would pool a learned word's place."""
    folder = tiny_xl if end != 2 else models.build_folder(tmp_path / "old", OLD, seed=8)
    tensors = {"clip_l": rows(3, 2, 40), "clip_g": rows(4, 2, 64)}
    safetensors.torch.save_file(tensors, tmp_path / "word.safetensors")
    stock = diffusers_pipeline(folder)
    for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
        stock.load_textual_inversion(
            {"<s>": tensors[name]},
            text_encoder=getattr(stock, f"text_encoder{suffix}"),
            tokenizer=getattr(stock, f"tokenizer{suffix}"),
        )
    stock.text_encoder_2.text_model.eos_token_id = 673
    texts = {"prompt": "a <s> star", "negative_prompt": "no <s>", "negative_prompt_2": "a ring"}
    theirs = run_oracle(stock, **texts)
    for name, limit in LIMITS.items():
        pipe = open_pipeline(folder, name)
        assert pipe.load_textual_inversion(tmp_path / "word.safetensors", "<s>") == "<s>"
        found = pipe(**texts, output_type="latent", **SHARED).latents
        assert relative(found, theirs) < limit
