"""Another VAE, tiles and previews, on both backends: bits, bad input, what is told."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image

import ipa
from ipa.sources.models import resolve_model
from ipa_torch.files.weights import quiet
from oracle import models, single_files
from oracle.measure import relative

CALL: dict[str, Any] = {"num_inference_steps": 1, "width": 32, "height": 24, "seed": 5}


def load(model: Path, backend: str, vae: Path | str | None = None) -> ipa.Pipeline:
    device = {"device": "cpu"} if backend == "torch" else {}
    return ipa.load(model, backend=backend, dtype="float32", vae=vae, **device)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose VAE has other weights, widths and scaling than `tiny`'s."""
    config = models.VAE | {"block_out_channels": (6, 12, 18), "scaling_factor": 0.7}
    config |= {"down_block_types": ("DownEncoderBlock2D",) * 3}
    config |= {"up_block_types": ("UpDecoderBlock2D",) * 3}
    root = tmp_path_factory.mktemp("other")
    return models.build_folder(root / "model", models.Tiny(vae=config), seed=31)


@torch.no_grad()
def decoded(folder: Path, latents: np.ndarray, scaling: float | None = None) -> np.ndarray:
    """diffusers' picture of latents by a folder's VAE."""
    with quiet():
        vae = AutoencoderKL.from_pretrained(folder).eval()
    scaled = torch.from_numpy(latents) / (scaling or vae.config.scaling_factor)
    return (vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def test_another_vae_decodes(tiny: Path, other: Path, backend: str) -> None:
    """Its config decides: three levels make a picture of four pixels a latent."""
    pipe = load(tiny, backend, other / "vae")
    result = pipe("a star", output_type="np", **CALL)
    assert result.latents.shape == (1, 4, 6, 8)
    assert relative(result.images, decoded(other / "vae", result.latents)) < 3e-6
    assert result.info["vae"] == str(other / "vae") == pipe.info()["vae"]
    whole = load(tiny, backend, other)  # the VAE in a model's folder
    assert np.array_equal(whole("a star", output_type="np", **CALL).images, result.images)


@pytest.mark.parametrize("spelling", ["diffusers", "original", "first_stage_model.", "whole model"])
def test_another_vae_from_a_file(tiny: Path, backend: str, tmp_path: Path, spelling: str) -> None:
    """It has the structure and the scaling of the model's own."""
    source = models.build_folder(tmp_path / "source", seed=32)
    tensors = {
        "diffusers": lambda: single_files.component(source, "vae"),
        "original": lambda: single_files.vae_tensors(source, ""),
        "first_stage_model.": lambda: single_files.vae_tensors(source),
        "whole model": lambda: single_files.sd15(source),
    }[spelling]()
    file = single_files.write(tmp_path / "vae.safetensors", tensors, "safetensors")
    result = load(tiny, backend, file)("a star", output_type="np", **CALL)
    assert relative(result.images, decoded(source / "vae", result.latents)) < 3e-6


def test_a_single_file_without_vae_becomes_loadable(
    tiny: Path, backend: str, tmp_path: Path
) -> None:
    pruned = single_files.unet_tensors(tiny) | single_files.text_tensors(
        tiny, "cond_stage_model.transformer."
    )
    file = single_files.write(tmp_path / "pruned.safetensors", pruned, "safetensors")
    configs = single_files.configs(tiny, tmp_path / "configs")
    model = resolve_model(file, config=configs)
    device = {"device": "cpu"} if backend == "torch" else {}
    with pytest.raises(ipa.CheckpointError):
        ipa.load(model, backend=backend, dtype="float32", **device)
    with_its_own = ipa.load(model, backend=backend, dtype="float32", vae=tiny / "vae", **device)
    expected = load(tiny, backend)("a star", output_type="np", **CALL)
    found = with_its_own("a star", output_type="np", **CALL)
    assert relative(found.images, expected.images) < 1e-5  # other kernels of attention in torch


def test_what_does_not_fit_is_refused(tiny: Path, backend: str, tmp_path: Path) -> None:
    wide = AutoencoderKL(**(models.VAE | {"latent_channels": 16}))
    wide.save_pretrained(tmp_path / "wide")
    with pytest.raises(ipa.CheckpointError, match="16 latent channels") as error:
        load(tiny, backend, tmp_path / "wide")
    assert "4 are needed" in str(error.value)
    file = next((tmp_path / "wide").glob("*.safetensors"))
    with pytest.raises(ipa.CheckpointError, match=file.name):
        load(tiny, backend, file)
    AutoencoderTiny().save_pretrained(tmp_path / "taesd")
    with pytest.raises(ipa.CheckpointError, match="of another class"):
        load(tiny, backend, tmp_path / "taesd")
    tensors = single_files.component(tiny, "vae")
    name = next(iter(tensors))
    for number, wrong in enumerate(
        (
            {k: v for k, v in tensors.items() if k != name},
            tensors | {"decoder.extra": torch.zeros(3)},
            tensors | {name: torch.full_like(tensors[name], float("nan"))},
        )
    ):
        safetensors.torch.save_file(wrong, tmp_path / f"{number}.safetensors")
        with pytest.raises(ipa.CheckpointError):
            load(tiny, backend, tmp_path / f"{number}.safetensors")
    for nothing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ipa.CheckpointError):
            load(tiny, backend, nothing)
    with pytest.raises(ipa.RequestError, match="vae must be a text or a path"):
        ipa.load(tiny, backend=backend, vae=3)  # type: ignore[arg-type]


def test_tiles_change_nothing_that_is_not_larger_than_one(
    tiny: Path, backend: str, open_pipeline: Any
) -> None:
    """32 pixels a side is the tile of `tiny`'s VAE; 64 is not larger than one of 64."""
    pipe = open_pipeline(tiny, backend)
    small, large = CALL, CALL | {"width": 64, "height": 32}
    whole = [pipe("a star", output_type="np", **call).images for call in (small, large)]
    for tiling, same in ((True, False), (False, True), (64, True), (None, True)):
        pipe.vae_tiling = tiling
        pictures = [pipe("a star", output_type="np", **call) for call in (small, large)]
        assert np.array_equal(pictures[0].images, whole[0])
        assert np.array_equal(pictures[1].images, whole[1]) == same
        assert pictures[1].info["vae_tiling"] is tiling or tiling == 64
        assert pictures[1].info["warnings"] == []


def test_very_large_pictures_take_strips_by_themselves(
    tiny: Path, backend: str, open_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture is the same, so nothing is said of it."""
    pipe, call = open_pipeline(tiny, backend), CALL | {"width": 64}
    whole = pipe("a star", output_type="np", **call)
    seen = watch_sizes(monkeypatch, backend)
    monkeypatch.setattr("ipa.backend.vae_memory.MOST_PIXELS", 64 * 24)
    assert np.array_equal(pipe("a star", output_type="np", **call).images, whole.images)
    assert seen == []
    monkeypatch.setattr("ipa.backend.vae_memory.MOST_PIXELS", 64 * 24 - 1)
    alone = pipe("a star", output_type="np", **call)
    assert len(seen) == 1 and alone.info["warnings"] == []
    assert relative(alone.images, whole.images) < 1e-5
    assert (alone.info["vae_memory"], alone.info["vae_tiling"]) == (None, None)
    assert (whole.info["vae_way"], alone.info["vae_way"]) == ("whole", "strips")


def test_a_run_says_how_its_pictures_went(tiny: Path, backend: str, open_pipeline: Any) -> None:
    """Not where none went: from noise to latents."""
    pipe, call = open_pipeline(tiny, backend), CALL | {"width": 64}
    start = Image.new("RGB", (64, 24))
    for memory, way in ((None, "whole"), ("strips", "strips"), ("tiles", "tiles"), (32, "tiles")):
        pipe.vae_memory = memory
        assert pipe("a star", **call).info["vae_way"] == way
        assert "vae_way" not in pipe("a star", output_type="latent", **call).info
        edited = pipe("a star", image=start, strength=1.0, output_type="latent", **call)
        assert edited.info["vae_way"] == way


def watch_sizes(monkeypatch: pytest.MonkeyPatch, backend: str) -> list[int]:
    """Filled with the size of strips of each picture that is decoded in them."""
    walk, seen = importlib.import_module(f"ipa_{backend}.vae_strips").StripWalk, []

    def decode(self: Any, *rest: Any) -> Any:
        seen.append(self.numbers)
        return original(self, *rest)

    original = walk.decode
    monkeypatch.setattr(walk, "decode", decode)
    return seen


def test_the_ways_through_the_vae(
    tiny: Path, backend: str, open_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strips are the whole picture, tiles another; encoding and decoding go the same way."""
    pipe, seen = open_pipeline(tiny, backend), watch_sizes(monkeypatch, backend)
    call = CALL | {"width": 64, "image": Image.radial_gradient("L"), "strength": 1.0}
    made = {}
    for memory in ("whole", "strips", "tiles", 32):
        pipe.vae_memory = memory
        result = pipe("a star", output_type="np", **call)
        assert result.info["vae_memory"] == pipe.info()["vae_memory"] == pipe.vae_memory == memory
        made[memory] = result.images
    assert len(seen) == 1
    assert relative(made["strips"], made["whole"]) < 1e-5
    assert relative(made["tiles"], made["whole"]) > 0.01
    assert np.array_equal(made[32], made["tiles"])  # the side that `tiny`'s was trained on


@pytest.mark.parametrize(
    ("older", "memory"), [(True, "tiles"), (False, "whole"), (64, 64), (None, None)]
)
def test_the_older_spelling(tiny: Path, open_pipeline: Any, older: Any, memory: Any) -> None:
    pipe = open_pipeline(tiny, "mlx")
    pipe.vae_memory = "strips"
    assert pipe.vae_tiling is False  # no tiles
    pipe.vae_tiling = older
    assert (pipe.vae_memory, pipe.vae_tiling) == (memory, older)
    pipe.vae_tiling, pipe.vae_memory = None, memory
    assert pipe.vae_tiling == older


def test_a_watched_run_takes_the_picture_whole(
    tiny: Path, backend: str, open_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In strips a module has no output of its own, so its stages could not be told."""

    class Names(list[str]):
        def wants(self, stage: str) -> bool:
            return stage.startswith("decode/")

        def __call__(self, stage: str, _: Any) -> None:
            self.append(stage)

    pipe, seen, told = open_pipeline(tiny, backend), watch_sizes(monkeypatch, backend), []
    for memory in ("whole", "strips"):
        pipe.vae_memory = memory
        told.append(Names())
        assert pipe("a star", tap=told[-1], **CALL).info["vae_memory"] == "whole"
        assert pipe.vae_memory == memory
    assert told[0] == told[1] and len(told[0]) > 20 and not seen


@pytest.mark.parametrize("wrong", ["yes", 0, -32, 48, 31, 1.5, True])
def test_no_other_way(tiny: Path, backend: str, open_pipeline: Any, wrong: Any) -> None:
    pipe = open_pipeline(tiny, backend)
    with pytest.raises(ipa.RequestError, match='vae_memory must be "whole", "strips", "tiles"'):
        pipe.vae_memory = wrong
    if wrong is not True:
        with pytest.raises(ipa.RequestError, match="vae_tiling must be True, False"):
            pipe.vae_tiling = wrong
    assert pipe.vae_memory is pipe.vae_tiling is None


def test_previews_change_no_bit(
    tiny: Path, backend: str, open_pipeline: Any, tmp_path: Path
) -> None:
    models.randomize(AutoencoderTiny(), seed=21).save_pretrained(tmp_path / "taesd")
    pipe = open_pipeline(tiny, backend)
    pipe.load_preview_decoder(tmp_path / "taesd")
    call = CALL | {"num_images": 2, "scheduler": "euler_ancestral", "output_type": "np"}
    call |= {"num_inference_steps": 3}
    off = pipe("a star", **call)
    for kind, size in (("latent", (8, 3)), ("tiny", (64, 24))):
        events = list(pipe.stream("a star", preview=kind, **call))
        shown = [event.preview for event in events if event.stage == "denoise"]
        assert [picture.size for picture in shown] == [size] * 3  # two pictures side by side
        assert all(event.preview is None for event in events if event.stage != "denoise")
        assert np.array_equal(events[-1].result.images, off.images)
        assert np.array_equal(events[-1].result.latents, off.latents)
    events = list(pipe.stream("a star", preview="latent", preview_every=2, **call))
    shown = [event.preview is not None for event in events if event.stage == "denoise"]
    assert shown == [False, True, True]
    assert all(event.preview is None for event in pipe.stream("a star", **call))


@pytest.mark.parametrize("wrong", [{"preview": "large"}, {"preview": True}, {"preview_every": 0}])
def test_no_previews_of_any_kind(tiny: Path, open_pipeline: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ipa.RequestError, match="preview"):
        open_pipeline(tiny, "mlx")("a star", **wrong)


def test_the_last_preview_is_like_the_picture(backend: str) -> None:
    """The demo's VAE has no public map: one is fitted to its decoder."""
    device = {"device": "cpu"} if backend == "torch" else {}
    pipe = ipa.load("demo", backend=backend, **device)
    events = list(
        pipe.stream("a red star on a white background", num_inference_steps=6, preview="latent")
    )
    last = next(e.preview for e in reversed(events) if e.preview is not None)
    picture = events[-1].result.images[0]
    small = np.asarray(picture.resize(last.size, 4), np.float64)  # box
    likeness = np.corrcoef(np.asarray(last, np.float64).ravel(), small.ravel())[0, 1]
    assert likeness > 0.85  # measured 0.944


def test_public_maps_are_taken_by_scaling() -> None:
    from ipa.model.vae import VaeSpec
    from ipa.pipeline.previews import latent_colours

    def never(_: np.ndarray) -> np.ndarray:
        raise AssertionError("a public VAE needs no fit")

    for base, value in (("sd15", 0.3512), ("sd2", 0.3512), ("sdxl", 0.3651)):
        folder = Path(ipa.__file__).parent / "bases" / base / "vae" / "config.json"
        spec = VaeSpec.from_config(json.loads(folder.read_text()))
        assert (
            latent_colours(spec, np.zeros((1, 4, 2, 2), np.float32), never).factors[0, 0] == value
        )
