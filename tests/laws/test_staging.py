"""A picture made in stages, with parts of the model let go between them, has the same bits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import safetensors.numpy
from diffusers import AutoencoderTiny
from PIL import Image

import ipa
from ipa import Control, Face, ImagePrompt, OutOfMemory, RequestError
from ipa.backend.residency import Part
from ipa.memory.limits import OFFERS, Limits
from ipa.memory.plan import MemoryPlan, StageMemory
from ipa.parity.capture.choice import Choice
from ipa.parity.recording import capture
from ipa.pipeline.memory.staging import leave
from ipa.pipeline.plan import Plan
from ipa_mlx.residency import MlxResidency
from oracle import adapters, controlled, loras, models, t2i_adapters
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline
from oracle.workshop import copied

EDGES = Image.fromarray(controlled.edges((64, 48), 1))
CALL: dict[str, Any] = {
    "num_inference_steps": 1,
    "guidance_scale": 3.0,
    "width": 48,
    "height": 32,
    "seed": 5,
    "output_type": "np",
}
# Where a batch only changes the order of sums: relative L2, measured 1.2e-6.
ROUNDING = 5e-6
# Peak over the budget, at most: MLX rounds up the memory of each array, and a thread of its gives
# some back a moment later, both of which are seen where networks are tiny; measured 1.035 (0.3 MB).
ROUNDED = 1.05
HALF = np.tile(np.arange(48) < 24, (32, 1))
VECTOR = np.random.default_rng(3).standard_normal(512).astype(np.float32)
SMALL: dict[str, Any] = {
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (2, 1),
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (12, 12),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and one of everything that may lie beside it."""
    root = tmp_path_factory.mktemp("staging")
    models.build_with_adapters(root, models.Tiny(unet=t2i_adapters.UNET), seed=8)
    states = models.VISION["hidden_size"]
    face = adapters.face_tensors(t2i_adapters.UNET, "faceid_plus", rank=3, states=states, seed=2)
    models.write_adapter(root / "face.safetensors", face)
    t2i_adapters.write_t2i_adapter(root / "sketch", 9, **t2i_adapters.FULL)
    controlled.write_controlnet(root / "net", t2i_adapters.UNET, seed=7)
    modules = loras.layers(diffusers_pipeline(root))
    for seed, name in enumerate(("lora", "other"), start=1):
        pairs = loras.random_pairs(modules, seed=seed, ranks=(4,))
        loras.write(root / f"{name}.safetensors", loras.peft(loras.weak(pairs)))
    word = np.random.default_rng(1).standard_normal((2, models.TEXT["hidden_size"]))
    safetensors.numpy.save_file({"<s>": word.astype(np.float32)}, root / "word.safetensors")
    small = models.randomize(AutoencoderTiny(**SMALL), seed=21)
    small.save_pretrained(root / "taesd")
    return root


def opened(files: Path, **options: Any) -> ipa.Pipeline:
    """With everything beside it; LoRAs do not act until a call says so."""
    pipe = ipa.load(files, backend="mlx", dtype="float32", **options)
    for name in ("linear", "plus"):
        pipe.load_ip_adapter(files / f"{name}.safetensors", name=name, scale=0.7)
    pipe.load_ip_adapter(files / "face.safetensors", name="face", kind="faceid-plusv2")
    pipe.load_controlnet(files / "net")
    pipe.load_t2i_adapter(files / "sketch")
    pipe.load_lora(files / "lora.safetensors", scale=0.0)
    pipe.load_lora(files / "other.safetensors", scale=0.0, fuse=True)
    pipe.load_textual_inversion(files / "word.safetensors")
    pipe.load_preview_decoder(files / "taesd")
    pipe.lora_folder = files
    return pipe


@pytest.fixture(scope="module")
def whole(files: Path) -> ipa.Pipeline:
    return opened(files)


@pytest.fixture(scope="module")
def staged(files: Path) -> ipa.Pipeline:
    """Nothing of it is read yet."""
    return opened(files, memory_budget=1)


KINDS: dict[str, Callable[[Image.Image], dict[str, Any]]] = {
    "text alone": lambda _: {"num_images": 2},
    "latents alone": lambda _: {"output_type": "latent"},
    "adapters that share an encoder": lambda image: {
        "image_prompts": [ImagePrompt(image, adapter=name) for name in ("linear", "plus")]
    },
    "a face with its LoRA": lambda image: {
        "image_prompts": [ImagePrompt(image, adapter="face", face=Face(VECTOR, image))]
    },
    "from a picture": lambda image: {"image": image.resize((48, 32)), "strength": 1.0},
    "inpainting": lambda image: {
        "image": image.resize((48, 32)),
        "mask_image": HALF,
        "strength": 1.0,
    },
    "controls": lambda _: {"controls": [Control(EDGES, name=n) for n in ("net", "sketch")]},
    "a LoRA": lambda _: {"loras": {"lora": 0.8}},
    "a fused LoRA": lambda _: {"loras": {"lora": 0.5, "other": 0.8}},
    "a LoRA of the prompt": lambda _: {
        "prompt": "a <s> star <lora:lora:0.7>",
        "prompt_syntax": "a1111",
    },
    "several prompts": lambda _: {"prompt": ["a <s> star", "a ring"]},
    "previews": lambda _: {"preview": "latent", "num_inference_steps": 2},
    "strips": lambda _: {},
}


def squeeze(pipe: ipa.Pipeline, call: Mapping[str, Any]) -> None:
    """The least budget that the call can be made in."""
    limits = Limits(budget=1 << 40)
    pipe._loaded._limits = limits
    stream = pipe.stream(**call)
    peak = stream.gi_frame.f_locals["run"].runs[0].allotted.plan.peak
    stream.close()
    pipe._loaded._limits = replace(limits, budget=peak)


def made(pipe: ipa.Pipeline, call: dict[str, Any]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Pictures or latents, and the previews."""
    *events, last = pipe.stream(**call)
    shown = [np.asarray(event.preview) for event in events if event.preview is not None]
    result = last.result
    assert result is not None
    return (result.latents if call["output_type"] == "latent" else result.images), shown


@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_is_another(
    kind: str,
    whole: ipa.Pipeline,
    staged: ipa.Pipeline,
    references: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first time, when everything is read, and again, when what has left comes back."""
    call = {"prompt": "a <s> star", **CALL, **KINDS[kind](references[0])}
    released: list[str] = []
    release = MlxResidency.release
    monkeypatch.setattr(
        MlxResidency, "release", lambda self, names: released.extend(names) or release(self, names)
    )
    for pipe in (whole, staged) if kind == "strips" else ():
        monkeypatch.setattr(pipe._loaded.backend, "vae_memory", "strips")
    expected = made(whole, call)
    assert not released
    squeeze(staged, call)
    for _ in range(2):
        found = made(staged, call)
        assert np.array_equal(found[0], expected[0])
        assert len(found[1]) == len(expected[1])
        assert all(map(np.array_equal, found[1], expected[1]))
        assert released
        let_go(staged)


def let_go(pipe: ipa.Pipeline) -> None:
    """Everything leaves memory."""
    residency = pipe._loaded.backend.residency
    residency.release(list(residency.parts()))


def test_what_leaves_is_gone(staged: ipa.Pipeline, references: list[Image.Image]) -> None:
    """Nothing that a run made or read holds on to it; only LoRAs and the tiny decoder stay."""
    call = {"prompt": "a <s> star", **CALL, "loras": {"lora": 0.5, "other": 0.8}}
    call |= KINDS["adapters that share an encoder"](references[0])
    call |= KINDS["controls"](references[0])
    staged._loaded._limits = Limits(budget=1 << 40)
    let_go(staged)
    before = mx.get_active_memory()
    made(staged, call)
    parts = staged._loaded.backend.residency.parts()
    here = sum(part.nbytes for part in parts.values() if part.is_here)
    assert here > 0
    # What LoRAs add to layers counts with no part; measured: 0.
    let_go(staged)
    assert mx.get_active_memory() == before


def test_parts_are_measured_by_their_headers(whole: ipa.Pipeline) -> None:
    """As many bytes as MLX counts, to its rounding up of each array's memory."""
    backend = whole._loaded.backend
    let_go(whole)
    for name, part in backend.residency.parts().items():
        before = mx.get_active_memory()
        resident = backend._residents()[name]
        network = resident.get()
        found = mx.get_active_memory() - before
        assert part.nbytes <= found <= part.nbytes + 64 * 2000, name
        del network
        backend.residency.release([name])


def test_adapters_share_what_sees(whole: ipa.Pipeline) -> None:
    """One encoder for three adapters."""
    parts = whole._loaded.backend.residency.parts()
    assert [name for name in parts if name.startswith("image_encoder")] == ["image_encoder"]


def test_what_a_tap_is_told_is_the_same(
    whole: ipa.Pipeline, staged: ipa.Pipeline, references: list[Image.Image]
) -> None:
    """Also of networks that come while it listens, and that LoRAs change."""
    call = {"prompt": "a <s> star", **CALL, "loras": {"lora": 0.5, "other": 0.8}}
    call |= KINDS["adapters that share an encoder"](references[0])
    call |= KINDS["controls"](references[0])
    expected = capture(whole, call, choice=Choice())
    squeeze(staged, call)
    let_go(staged)
    found = capture(staged, call, choice=Choice())
    assert list(found.stages) == list(expected.stages)
    for name, array in expected.stages.items():
        assert np.array_equal(found.stages[name], array), name
    kinds = {type(m).__mro__[1] for m in whole._loaded.backend.unet.modules()}
    assert kinds == {type(m).__mro__[1] for m in staged._loaded.backend.unet.modules()}


def test_a_snapshot_keeps_what_it_needs(
    files: Path, staged: ipa.Pipeline, references: list[Image.Image]
) -> None:
    """An adapter that is unloaded after the call, before its first event, is still read for it."""
    call = {"prompt": "a star", **CALL, "image_prompts": ImagePrompt(references[0], adapter="full")}
    own = copied(staged)
    own._loaded._limits = Limits(budget=1 << 40)
    own.load_ip_adapter(files / "full.safetensors", name="full")
    expected = made(own, call)[0]
    let_go(own)
    stream = own.stream(**call)
    own.unload_ip_adapter("full")
    *_, last = stream
    assert last.result is not None
    assert np.array_equal(last.result.images, expected)
    assert "adapter full" not in own._loaded.backend.residency.parts()


def test_two_threads_take_turns(whole: ipa.Pipeline, staged: ipa.Pipeline) -> None:
    call = {"prompt": "a star", **CALL}
    expected = made(whole, call)[0]
    squeeze(staged, call)
    found: dict[int, np.ndarray] = {}

    def run(number: int) -> None:
        found[number] = made(staged, call)[0]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(np.array_equal(picture, expected) for picture in found.values())


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_parts_come_back(
    bits: int, tmp_path_factory: pytest.TempPathFactory, references: list[Image.Image]
) -> None:
    unet = models.UNET | {
        "block_out_channels": (32, 64, 128),
        "cross_attention_dim": 64,
        "attention_head_dim": (2, 4, 4),
        "norm_num_groups": 16,
    }
    text = models.TEXT | {"hidden_size": 64, "num_attention_heads": 4}
    folder = tmp_path_factory.mktemp("few_bits")
    models.build_with_adapters(folder, models.Tiny(unet=unet, text=text), seed=4)
    call = {"prompt": "a star", **CALL, "image_prompts": ImagePrompt(references[0])}
    found = []
    for options in ({}, {"memory_budget": 1}):
        pipe = ipa.load(folder, backend="mlx", quantize=bits, **options)
        pipe.load_ip_adapter(folder / "linear.safetensors")
        if options:
            squeeze(pipe, call)
        found += [made(pipe, call)[0] for _ in range(2)]
        described = pipe.info()
        assert described["quantization"]["unet"]["bits"] == bits
    assert all(np.array_equal(picture, found[0]) for picture in found)


STAGES = {
    "text": "encode_text",
    "condition": "text_pairs",
    "denoise": "predict",
    "decode": "decode",
}
SAID = "[metal::malloc] Attempting to allocate 123 bytes which is greater than the maximum"


@pytest.mark.parametrize("stage", STAGES)
def test_memory_that_runs_out_is_one_error(
    stage: str, staged: ipa.Pipeline, whole: ipa.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the stage and what was foreseen; the next call is as ever."""
    call = {"prompt": "a star", **CALL, "loras": {"lora": 0.5}}
    expected = made(whole, call)[0]
    for pipe in (staged, whole):
        pipe._loaded._limits = Limits(budget=1 << 40 if pipe is staged else None)
        with monkeypatch.context() as patch:
            patch.setattr(f"ipa_mlx.backend.{STAGES[stage]}", _ran_out)
            with pytest.raises(OutOfMemory, match=rf"stage {stage}.*123 bytes.*foreseen.*[MG]iB"):
                made(pipe, call)
        assert np.array_equal(made(pipe, call)[0], expected)


def test_memory_that_runs_out_while_reading(
    files: Path, staged: ipa.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go(staged)
    with monkeypatch.context() as patch:
        patch.setattr("ipa_mlx.residency.place", _ran_out)
        with pytest.raises(OutOfMemory, match="stage text"):
            made(staged, {"prompt": "a star", **CALL})
        with pytest.raises(OutOfMemory, match=r"^memory ran out; found"):
            ipa.load(files, backend="mlx")
    made(staged, {"prompt": "a star", **CALL})


def _ran_out(*_: object, **__: object) -> None:
    raise RuntimeError(SAID)


def test_other_errors_are_not_taken_for_it(
    staged: ipa.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("ipa_mlx.backend.predict", fail)
    with pytest.raises(RuntimeError, match="do not fit"):
        made(staged, {"prompt": "a star", **CALL})


def test_files_that_were_written_over_are_refused(tiny: Path, tmp_path: Path) -> None:
    """One that was replaced or deleted is still read as it was."""
    import shutil

    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    pipe = ipa.load(folder, backend="mlx", dtype="float32", memory_budget=1)
    call = {"prompt": "a star", **CALL}
    expected = made(pipe, call)[0]
    let_go(pipe)
    (weights,) = (folder / "vae").glob("*.safetensors")
    weights.unlink()
    weights.write_bytes(b"something else")
    assert np.array_equal(made(pipe, call)[0], expected)
    let_go(pipe)
    (weights,) = (folder / "unet").glob("*.safetensors")
    with weights.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\0")
    with pytest.raises(ipa.CheckpointError, match=r"written over.*load the model again"):
        made(pipe, call)


@pytest.mark.parametrize(
    ("room", "gone"),
    [
        (30, []),
        (29, ["idle"]),
        (20, ["idle", "small"]),
        (10, ["idle", "large"]),
        (0, ["idle", "large", "small"]),
    ],
)
def test_little_has_to_be_read_again(room: int, gone: list[str]) -> None:
    """What the run does not use goes first, then the smallest that is enough."""
    sizes = {"idle": 2, "small": 8, "large": 20, "now": 50}
    parts = {name: Part(size, is_here=True) for name, size in sizes.items()}
    parts["absent"] = Part(1000, is_here=False)
    used = {
        "text": frozenset({"small"}),
        "denoise": frozenset({"now"}),
        "decode": frozenset({"large"}),
    }
    assert leave("denoise", parts, used, room) == gone


@pytest.mark.parametrize("budget", [0, -1, 5000, "most", True, [4]])
def test_what_is_no_budget(budget: Any, tiny: Path, backend: str) -> None:
    """It is told before anything is looked for, and leaves the one that was set."""
    with pytest.raises(RequestError, match=r"memory_budget must be GiB from 0\.0625 to 4096"):
        ipa.load("no/such/model", backend=backend, memory_budget=budget, offline=True)
    pipe = ipa.load(tiny, backend=backend, memory_budget=2)
    with pytest.raises(RequestError, match="memory_budget must be"):
        pipe.memory_budget = budget
    assert pipe.memory_budget == 2
    with pytest.raises(RequestError, match="memory_offers takes names"):
        pipe.memory_offers = ("bits",)
    pipe.memory_offers = ("strips",)
    assert pipe.info()["memory"]["offers"] == ["strips"]
    pipe.memory_budget = "auto"
    assert pipe.info()["memory"]["budget_bytes"] > 1 << 26
    pipe.memory_budget = None
    assert pipe.info()["memory"]["budget_bytes"] is None


def test_what_cannot_fit_is_refused_before_it_is_read(tiny: Path, backend: str) -> None:
    pipe = ipa.load(tiny, backend=backend, dtype="float32", memory_budget=1)
    pipe._loaded._limits = Limits(budget=1 << 16)
    with pytest.raises(RequestError, match=r"does not fit the memory budget.*smallest budget"):
        pipe.stream("a star", **CALL)
    here = pipe.info()["memory"]["here"]
    assert here == ([] if backend == "mlx" else [*pipe._loaded.backend.residency.parts()])


def pretended(plan: Plan, backend: Any, budget: int | None, way: Any) -> MemoryPlan:
    """100 bytes a picture, and 150 for the VAE, but 50 in strips."""
    vae = 50 if way == "strips" else 150
    stages = (
        StageMemory("denoise", {"unet": 10}, 100 * len(plan.seeds)),
        StageMemory("decode", {"vae": 10}, vae),
    )
    return MemoryPlan(stages, budget, staged=True)


@pytest.mark.parametrize(
    ("budget", "offers", "taken"),
    [
        (None, OFFERS, []),
        (600, OFFERS, []),
        (310, OFFERS, ["strips", "fewer"]),
        (310, ("fewer",), ["fewer"]),
        (119, ("strips", "fewer"), ["strips", "fewer"]),
        (119, ("fewer",), None),
        (119, ("strips",), None),
        (109, OFFERS, None),
        (310, (), None),
    ],
)
def test_offers_that_may_be_taken(
    budget: int | None,
    offers: tuple[str, ...],
    taken: list[str] | None,
    backend: str,
    open_pipeline: Callable[..., ipa.Pipeline],
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that are needed and allowed; what was taken is said, and the request is as it was."""
    pipe = open_pipeline(tiny, backend)
    call = {"prompt": "a star", **CALL, "num_images": 5, "seed": 2**64 - 2}
    call["latents"] = np.random.default_rng(2).standard_normal((5, 4, 4, 6), dtype=np.float32)
    expected = pipe(**call)
    monkeypatch.setattr("ipa.pipeline.memory.allotment.foresee", pretended)
    pipe._loaded._limits = Limits(budget, offers)
    if taken is None:
        with pytest.raises(RequestError, match="does not fit the memory budget"):
            pipe.stream(**call)
        return
    found = pipe(**call)
    assert (found.info["memory"] or {"taken": []})["taken"] == taken
    assert found.info["request"] == expected.info["request"]
    assert "requests" not in found.info
    assert found.info["vae_memory"] == ("strips" if "strips" in taken else None)
    assert relative(found.latents, expected.latents) < ROUNDING
    assert relative(found.images, expected.images) < ROUNDING


def test_what_cannot_be_made_in_parts(
    open_pipeline: Callable[..., ipa.Pipeline], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One generator's noise, previews of all pictures, weights that a function gives."""
    pipe = open_pipeline(tiny, "mlx")
    monkeypatch.setattr("ipa.pipeline.memory.allotment.foresee", pretended)
    pipe._loaded._limits = Limits(310)
    call = {"prompt": "a star", **CALL, "num_images": 5}
    for more in ({"profile": "tencent"}, {"preview": "latent"}, {"weights": lambda *_: {}}):
        with pytest.raises(RequestError, match="does not fit the memory budget"):
            pipe.stream(**call, **more)


def test_only_what_a_way_leaves_alone(
    open_pipeline: Callable[..., ipa.Pipeline], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who says how pictures go through the VAE is not told otherwise."""
    pipe = open_pipeline(tiny, "mlx")
    monkeypatch.setattr("ipa.pipeline.memory.allotment.foresee", pretended)
    pipe._loaded._limits = Limits(120)
    pipe.vae_memory = "whole"
    with pytest.raises(RequestError, match="does not fit the memory budget"):
        pipe.stream("a star", **CALL)


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_is_taken_than_the_budget(
    kind: str,
    staged: ipa.Pipeline,
    references: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As MLX counts it, of a run that has to read everything and of one that goes on from it."""
    call = {"prompt": "a <s> star", **CALL, **KINDS[kind](references[0])}
    if kind == "strips":
        monkeypatch.setattr(staged._loaded.backend, "vae_memory", "strips")
    squeeze(staged, call)
    budget = staged._loaded._limits.budget
    assert budget is not None
    let_go(staged)
    beside = sum(lora["bytes"] for lora in staged.info()["loras"].values())
    before = mx.get_active_memory() - beside
    for _ in range(2):
        made(staged, call)
        assert mx.get_peak_memory() - before <= budget * ROUNDED
