"""LoRAs that a prompt names in A1111's way, on both backends: as if they were loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ipa
from ipa import RequestError
from ipa.parity.capture.choice import Choice
from ipa.parity.capture.collector import Collector
from ipa.parity.recording import capture
from ipa.pipeline.picture_store import PictureStore
from ipa.pipeline.replay import from_description
from oracle import loras
from oracle.loras import File
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline

CALL: dict[str, Any] = {
    "num_inference_steps": 1,
    "width": 32,
    "height": 24,
    "guidance_scale": 3.0,
    "seed": 5,
    "output_type": "latent",
    "prompt_syntax": "a1111",
}
Run = Callable[..., np.ndarray]
# Relative L2 on torch between two loads of one file, whose bits may depend on where its memory
# lies: 0 measured, whether products are steady or not; 1.9e-6 where sums are taken in another order
# (tests/laws/test_loras.py). MLX: no bit.
ROUNDING = 4e-6
EFFECT = 2.5e-4
"""Of each of them alone, at least: 5.0e-4 to 7.9e-4 measured."""


def is_same(one: np.ndarray, other: np.ndarray, backend: str) -> bool:
    if backend == "mlx":
        return np.array_equal(one, other)
    return relative(one, other) < ROUNDING


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs, the UNet's part of the first alone, and one below with the name of its training;
    a learned word came with the second."""
    root = tmp_path_factory.mktemp("named")
    (root / "below").mkdir()
    every = loras.layers(diffusers_pipeline(tiny))
    first = loras.weak(loras.random_pairs(dict([*every.items()][::25]), 1), alpha=2.0)
    unet = {place: pair for place, pair in first.items() if place[0] == "unet"}
    other = loras.weak(loras.random_pairs(dict([*every.items()][1::25]), 2), alpha=2.0)
    loras.write(root / "first.safetensors", loras.kohya(first, "sd"))
    loras.write(root / "part.safetensors", loras.kohya(unet, "sd"))
    word = {"bundle_emb.kitty.string_to_param.*": 0.2 * torch.randn(2, 40)}
    tensors = loras.kohya(other, "sd").tensors
    loras.write(root / "other.safetensors", File(tensors | word))
    trained = File(tensors, {"ss_output_name": "my style"})
    loras.write(root / "below" / "v3.safetensors", trained)
    return root


@pytest.fixture
def pipe(tiny: Path, backend: str, open_pipeline: Callable[..., ipa.Pipeline]) -> ipa.Pipeline:
    return open_pipeline(tiny, backend)


@pytest.fixture
def run(pipe: ipa.Pipeline, folder: Path) -> Run:
    """A call, with a folder of LoRAs and none loaded."""
    pipe.lora_folder = folder
    return lambda prompt, **changes: pipe(prompt, **(CALL | changes)).latents


def test_a_name_is_as_loading(pipe: ipa.Pipeline, run: Run, folder: Path, backend: str) -> None:
    """For one call, of which no bit is left; in text encoder and UNet by themselves too."""
    base = run("a (star:1.2)")
    named = {
        tag: run(f"a (star{tag}:1.2)")
        for tag in ("<lora:first:0.5>", "<lyco:part:0.7>", "<lora:my style>", "<lora:first:0:0.7>")
    }
    together = run("a <lora:first:0.5>(star:1.2)<lora:part:-0.3>")
    for idle in ("<lora:first:0>", "<lora:none:0>", "<lora:first:te=0:unet=0>"):
        assert np.array_equal(run(f"a (star:1.2){idle}"), base)
    assert np.array_equal(run("a (star:1.2)"), base)
    assert pipe.info()["loras"] == {} and pipe.info()["textual_inversions"] == []
    loaded = {}
    for name, file, scale in (
        ("<lora:first:0.5>", "first", 0.5),
        ("<lyco:part:0.7>", "part", 0.7),
        ("<lora:my style>", "below/v3", 1.0),
    ):
        pipe.load_lora(folder / f"{file}.safetensors", scale=scale)
        loaded[name] = run("a (star:1.2)")
        pipe.unload_lora()
    loaded["<lora:first:0:0.7>"] = loaded["<lyco:part:0.7>"]
    for tag, latents in named.items():
        assert is_same(latents, loaded[tag], backend), tag
        assert relative(latents, base) > EFFECT, tag
    pipe.load_lora(folder / "first.safetensors", scale=0.5)
    pipe.load_lora(folder / "part.safetensors", scale=-0.3)
    assert is_same(run("a (star:1.2)"), together, backend)


def test_one_that_is_loaded_takes_the_weight(pipe: ipa.Pipeline, run: Run, folder: Path) -> None:
    """By its name here, or its file's; for that call alone, fused too."""
    pipe.lora_folder = None
    for fuse in (False, True):
        pipe.load_lora(folder / "first.safetensors", name="a", scale=0.9, fuse=fuse)
        usual, half = run("a star"), run("a star", loras={"a": 0.5})
        assert np.array_equal(run("a star <lora:a:0.5>"), half)
        assert np.array_equal(run("a star <lora:first:0.5>"), half)
        assert np.array_equal(run("a star <lora:a:0.5>", loras={"a": 0.5}), half)
        assert np.array_equal(run("a star"), usual)
        assert np.array_equal(run("a star <lora:a:0.5>", loras={"a": 0.6}), half)
        with pytest.raises(RequestError, match="twice"):
            run("a star <lora:a:0.5><lora:first:0.6>")
        assert np.array_equal(run("a star <lora:a:0.5><lora:first:0.5>"), half)
        pipe.unload_lora()


def test_each_prompt_of_a_list_has_its_own(pipe: ipa.Pipeline, run: Run, backend: str) -> None:
    """Also the words that came with them; and what is told of each brings it back."""
    prompts = ["a kitty <lora:other:0.5>", "a kitty", "a kitty <lora:first:0.4:0.2>"]
    result = pipe(prompts, **CALL)
    for number, prompt in enumerate(prompts):
        alone = pipe(prompt, **(CALL | {"seed": 5 + number}))
        assert is_same(result.latents[number], alone.latents[0], backend)
        request = alone.info["request"]
        assert result.info["requests"][number]["loras"] == request["loras"]
        again = from_description(request, PictureStore.of(())) | {"output_type": "latent"}
        assert is_same(pipe(**again).latents, alone.latents, backend)
    words = [one["textual_inversions"] for one in result.info["requests"]]
    assert [[word["lora"] for word in own] for own in words] == [["other"], [], []]
    told = result.info["requests"][2]["loras"]["first"]
    assert (told["file"], told["scale"], told["text_scale"]) == ("first.safetensors", 0.2, 0.4)
    assert told["tag"] == "<lora:first:0.4:0.2>"
    assert not result.info["warnings"]


def test_what_is_not_there(pipe: ipa.Pipeline, run: Run, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"called 'frist'; found: 4 files, such as first"):
        run("a star <lora:frist:1>")
    with pytest.raises(RequestError, match="must be a folder"):
        pipe.lora_folder = tmp_path / "none"
    base = run("a star")
    pipe.lora_folder = None
    for options in ({"prompt": "a star <lora:first:1>"}, {"negative_prompt": "<lora:first:1>"}):
        result = pipe(**({"prompt": "a star", **CALL} | options))
        assert np.array_equal(result.latents, base)
        (warning,) = result.info["warnings"]
        assert "'<lora:first:1>' was left out" in warning
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.pt").write_bytes(b"")
    pipe.lora_folder = tmp_path
    with pytest.raises(RequestError, match="several LoRAs called 'x'"):
        run("a star <lora:x:1>")


def test_a_description_needs_what_its_prompt_named(
    pipe: ipa.Pipeline, run: Run, folder: Path, backend: str
) -> None:
    """Played again without it, it is an error that names the LoRA; unless it is let go of."""
    base = run("a star")
    result = pipe("a star <lora:first:0.5>", **CALL)
    again = from_description(result.info["request"], PictureStore.of(()))
    again["output_type"] = "latent"
    pipe.lora_folder = None
    for also in ({}, {"prompt": ["a star <lora:first:0.5>", "a dog"]}):
        with pytest.raises(RequestError, match=r"LoRA 'first', .*load_lora it, or set lora_folder"):
            pipe(**(again | also))
    assert np.array_equal(pipe(**(again | {"loras": None})).latents, base)
    pipe.load_lora(folder / "first.safetensors", name="another")
    assert is_same(pipe(**again).latents, result.latents, backend)


def test_of_a_list_each_prompt_needs_its_own(pipe: ipa.Pipeline, run: Run) -> None:
    """The strengths of what some of the prompts name are no others' concern."""
    prompts = ["a star <lora:first:0.5>", "a star"]
    batch = pipe(prompts, **(CALL | {"loras": {"first": 0.5}}))
    assert np.array_equal(batch.latents, pipe(prompts, **CALL).latents)
    again = from_description(batch.info["request"], PictureStore.of(()))
    assert again["loras"] == {"first": 0.5}
    with pytest.raises(RequestError, match="no such LoRA; found: second"):
        pipe(prompts, **(CALL | {"loras": {"second": 0.5}}))


def test_a_file_of_two_names_is_one_lora(
    pipe: ipa.Pipeline, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one prompt, in several, and where it is loaded already."""
    one = run("a star <lora:my style:0.5>")
    both = "a star <lora:my style:0.5><lora:v3:0.5>"
    assert np.array_equal(run(both), one)
    with pytest.raises(RequestError, match="names the LoRA 'my style' twice"):
        run("a star <lora:my style:0.5><lora:v3:0.6>")
    loaded: list[str] = []
    kind = type(pipe._loaded.backend.loras)
    load = kind.load
    monkeypatch.setattr(
        kind, "load", lambda own, name, *a, **k: (loaded.append(name), load(own, name, *a, **k))[1]
    )
    prompts = ["a star <lora:my style:0.5>", "a star <lora:v3:0.5>"]
    batch = pipe(prompts, **(CALL | {"seed": 5}))
    assert loaded == ["my style"] and np.array_equal(batch.latents[0], one[0])
    assert not batch.info["warnings"]
    pipe.load_lora(folder / "below" / "v3.safetensors", name="mine", scale=0.0)
    loaded.clear()
    run("a star <lora:my style:0.5>")
    assert not loaded


def test_captures_hash_what_a_prompt_names(pipe: ipa.Pipeline, run: Run, folder: Path) -> None:
    """As they hash it loaded; another file of the name is another run."""
    call = {"prompt": "a star <lora:first:0.5>", **CALL}
    named = capture(pipe, call, Choice(patterns=("start/*",))).header
    assert "lora.first" not in pipe.fingerprints()
    pipe.lora_folder = None
    pipe.load_lora(folder / "first.safetensors", scale=0.5)
    assert named.fingerprints == pipe.fingerprints()
    pipe.unload_lora()
    pipe.load_lora(folder / "other.safetensors", name="first")
    assert named.fingerprints["lora.first"] != pipe.fingerprints()["lora.first"]


def test_a_closed_stream_leaves_nothing(pipe: ipa.Pipeline, run: Run) -> None:
    base = run("a star")
    stream = pipe.stream("a star <lora:first:1>", **CALL)
    next(stream)
    stream.close()
    assert pipe.info()["loras"] == {}
    assert np.array_equal(run("a star"), base)


def test_who_watches_sees_the_changed_layers(pipe: ipa.Pipeline, run: Run, folder: Path) -> None:
    """However a call names its LoRA: every stage is that of a pipeline where it acts already."""
    seen = []

    def stages(prompt: str, **options: Any) -> None:
        seen.append(Collector(Choice()))
        pipe(prompt, tap=seen[-1], **(CALL | options))

    stages("a star <lora:first:0.4>")
    pipe.load_lora(folder / "first.safetensors", scale=0.9)
    stages("a star", loras={"first": 0.4})
    stages("a star <lora:first:0.4>")
    pipe.set_lora_scale(0.4)
    stages("a star")
    *found, wanted = [collector.stages for collector in seen]
    for own in found:
        assert own.keys() == wanted.keys()
        far = {s: relative(np.asarray(own[s]), np.asarray(wanted[s])) for s in wanted}
        assert max(far.values()) < ROUNDING, max(far, key=lambda stage: far[stage])


def test_comfyuis_names_of_words(pipe: ipa.Pipeline, run: Run, tmp_path: Path) -> None:
    """`embedding:NAME` is the word, weights too; one that is not loaded is left out, and said."""
    rows = {"emb_params": 0.2 * torch.randn(2, 40)}
    path = loras.write(tmp_path / "my-cat.safetensors", File(rows))
    pipe.load_textual_inversion(path, "<cat>")
    comfy = {"prompt_syntax": "comfyui"}
    expected = run("a <cat>, (<cat>:1.2) star", **comfy)
    assert np.array_equal(run("a embedding:my-cat, (embedding:my-cat:1.2) star", **comfy), expected)
    assert np.array_equal(run("a star", **comfy), run("a embedding:dog star", **comfy))
    (warning,) = pipe("a embedding:dog star", **(CALL | comfy)).info["warnings"]
    assert "'embedding:dog' was left out: there is no such learned word (loaded: <cat>)" in warning
    pipe.unload_textual_inversion()
