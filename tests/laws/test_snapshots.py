"""What is loaded, replaced or set after `stream()` reaches neither the run nor what it says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from diffusers import AutoencoderTiny
from PIL import Image

import ipa
from ipa import Control, ImagePrompt
from oracle import controlled, loras, models, t2i_adapters
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline

Open = Callable[..., ipa.Pipeline]
Change = Callable[[ipa.Pipeline, Path], object]

# Relative L2 of latents and pictures. Measured on torch: 0, whether its products are steady or not;
# where another library sums in another order it may make 1.9e-6 (tests/laws/test_loras.py).
ROUNDING = {"mlx": 0.0, "torch": 4e-6}
SEEN = 1e-3
"""What each of the changes does to the latents, the picture or the preview, at least: measured
2.1e-3 in one step, 4.9e-2 in two."""

EDGES = Image.fromarray(controlled.edges((64, 48), 1))
SMALL: dict[str, Any] = {
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (2, 1),
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (12, 12),
}
REPLACED = {
    "ip_adapter": ("image.safetensors", "image2.safetensors"),
    "controlnet": ("net", "net2"),
    "t2i_adapter": ("sketch", "sketch2"),
    "lora": ("lora.safetensors", "lora2.safetensors"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and two of everything that may lie beside it."""
    root = tmp_path_factory.mktemp("snapshots")
    models.build_with_adapters(root, models.Tiny(unet=t2i_adapters.UNET), seed=8)
    (root / "linear.safetensors").rename(root / "image.safetensors")
    (root / "plus.safetensors").rename(root / "image2.safetensors")
    modules = loras.layers(diffusers_pipeline(root))
    for number, end in enumerate(("", "2")):
        t2i_adapters.write_t2i_adapter(root / f"sketch{end}", 9 + number, **t2i_adapters.FULL)
        controlled.write_controlnet(root / f"net{end}", t2i_adapters.UNET, seed=7 + 10 * number)
        pairs = loras.random_pairs(modules, seed=1 + number, ranks=(4,))
        loras.write(root / f"lora{end}.safetensors", loras.peft(loras.weak(pairs)))
        word = np.random.default_rng(number).standard_normal((2, models.TEXT["hidden_size"]))
        path = root / f"word{end}.safetensors"
        safetensors.numpy.save_file({"<s>": word.astype(np.float32)}, path)
        small = models.randomize(AutoencoderTiny(**SMALL), seed=21 + number)
        small.save_pretrained(root / f"taesd{end}")
    return root


@pytest.fixture
def fuse(request: pytest.FixtureRequest) -> bool:
    return getattr(request, "param", "added") == "fused"


@pytest.fixture
def pipe(files: Path, backend: str, fuse: bool, open_pipeline: Open) -> ipa.Pipeline:
    """With one of everything."""
    pipe = open_pipeline(files, backend)
    pipe.load_ip_adapter(files / "image.safetensors", name="ip_adapter", scale=0.7)
    pipe.load_controlnet(files / "net", name="controlnet")
    pipe.load_t2i_adapter(files / "sketch", name="t2i_adapter")
    pipe.load_lora(files / "lora.safetensors", name="lora", scale=0.8, fuse=fuse)
    pipe.load_textual_inversion(files / "word.safetensors")
    pipe.load_preview_decoder(files / "taesd")
    pipe.vae_tiling = 32
    return pipe


def call(pipe: ipa.Pipeline, reference: Image.Image, steps: int = 1) -> dict[str, Any]:
    """All that is loaded is used."""
    info = pipe.info()
    return {
        "prompt": "a <s> star",
        "image_prompts": [ImagePrompt(reference, adapter=name) for name in info["adapters"]],
        "controls": [
            Control(EDGES, name=name) for name in (*info["controlnets"], *info["t2i_adapters"])
        ],
        "num_inference_steps": steps,
        "guidance_scale": 3.0,
        "width": 48,
        "height": 32,
        "seed": 5,
        "output_type": "np",
        "preview": "tiny",
        "preview_every": steps,
    }


def replace(kind: str) -> Change:
    """Another one under the same name."""

    def change(pipe: ipa.Pipeline, files: Path) -> None:
        getattr(pipe, f"unload_{kind}")(kind)
        getattr(pipe, f"load_{kind}")(files / REPLACED[kind][1], name=kind)

    return change


def other_word(pipe: ipa.Pipeline, files: Path) -> None:
    pipe.unload_textual_inversion("<s>")
    pipe.load_textual_inversion(files / "word2.safetensors")


def set_tiling(pipe: ipa.Pipeline, _: Path) -> None:
    pipe.vae_tiling = False


def unload(kind: str) -> Change:
    return lambda pipe, _: getattr(pipe, f"unload_{kind}")()


def load(kind: str) -> Change:
    def change(pipe: ipa.Pipeline, files: Path) -> None:
        getattr(pipe, f"load_{kind}")(files / REPLACED[kind][0], name=f"{kind}-b")

    return change


CHANGES: dict[str, Change] = {  # one after another, on the same pipeline
    **{f"another {kind} under the same name": replace(kind) for kind in REPLACED},
    "another word": other_word,
    "load_preview_decoder": lambda pipe, files: pipe.load_preview_decoder(files / "taesd2"),
    "set_ip_adapter_scale": lambda pipe, _: pipe.set_ip_adapter_scale(0.1),
    "set_lora_scale": lambda pipe, _: pipe.set_lora_scale(-0.5),
    "vae_tiling": set_tiling,
    **{f"load_{kind}": load(kind) for kind in REPLACED},
    **{f"unload_{kind}": unload(kind) for kind in (*REPLACED, "textual_inversion")},
}


def taken(events: Iterator[ipa.Progress]) -> tuple[ipa.Result, Image.Image]:
    """The result, and the last preview."""
    kept = list(events)
    previews = [event.preview for event in kept if event.preview is not None]
    return kept[-1].result, previews[-1]


def told(result: ipa.Result) -> dict[str, Any]:
    return {k: v for k, v in result.info.items() if k not in {"timings_s", "peak_memory_bytes"}}


def differs(a: tuple[ipa.Result, Image.Image], b: tuple[ipa.Result, Image.Image]) -> float:
    pairs = [(a[0].latents, b[0].latents), (a[0].images, b[0].images)]
    pairs.append((np.asarray(a[1], np.float32), np.asarray(b[1], np.float32)))
    return max(relative(found, expected) for found, expected in pairs)


@pytest.mark.parametrize("fuse", ["added", "fused"], indirect=True)
def test_a_change_before_the_first_event(
    pipe: ipa.Pipeline, files: Path, backend: str, fuse: bool, references: list[Image.Image]
) -> None:
    """And it holds in the next call, whose picture shows it."""
    expected = taken(pipe.stream(**call(pipe, references[0])))
    for name, change in CHANGES.items():
        if fuse and "lora" not in name:
            continue  # as where it is added
        events = pipe.stream(**call(pipe, references[0]))
        change(pipe, files)
        found = taken(events)
        assert differs(found, expected) <= ROUNDING[backend], name
        assert told(found[0]) == told(expected[0]), name
        expected = taken(pipe.stream(**call(pipe, references[0])))
        assert differs(found, expected) > SEEN, name


def test_a_change_in_the_middle(
    pipe: ipa.Pipeline, files: Path, backend: str, references: list[Image.Image]
) -> None:
    """In the thread of the stream it is refused, but for a scale; another thread waits."""
    expected = taken(pipe.stream(**call(pipe, references[0], 2)))
    for name, change in CHANGES.items():
        events = pipe.stream(**call(pipe, references[0], 2))
        began = [next(events) for _ in range(3)]
        assert began[-1].stage == "denoise"
        if name == "set_ip_adapter_scale":
            change(pipe, files)
        else:
            with pytest.raises(ipa.RequestError, match="in the middle of a stream"):
                change(pipe, files)
        other = threading.Thread(target=change, args=(pipe, files))
        other.start()
        found = taken(events)
        other.join()
        assert differs(found, expected) <= ROUNDING[backend], name
        assert told(found[0]) == told(expected[0]), name
        expected = taken(pipe.stream(**call(pipe, references[0], 2)))
        assert differs(found, expected) > SEEN, name


def test_a_stream_that_is_dropped_keeps_nothing(
    pipe: ipa.Pipeline, files: Path, backend: str, references: list[Image.Image]
) -> None:
    """What was unloaded is forgotten with the last that was planned with it."""
    before = pipe.info()["bytes"]
    for load in range(2):
        events = pipe.stream(**call(pipe, references[0]))
        replace("lora")(pipe, files)
        if load:
            next(events)
            events.close()
        del events
    pipe.set_lora_scale(1.0)
    assert pipe.info()["bytes"] == before
    pipe.unload_lora()
    pipe.set_lora_scale(1.0)
    unet = pipe._loaded.backend.unet
    names = unet.named_modules() if backend == "torch" else ()
    assert not [path for path, _ in names if "lora" in path]


def test_planning_while_another_thread_runs(
    tiny: Path, backend: str, open_pipeline: Open, references: list[Image.Image]
) -> None:
    """A stream may be asked for, and is checked, without waiting for the one under way."""
    pipe = open_pipeline(tiny, backend, "linear")
    first = pipe.stream("a star", num_inference_steps=2, width=32, height=32)
    next(first)
    second = pipe.stream("a star", ip_adapter_image=references[0], width=32, height=32)
    with pytest.raises(ipa.RequestError, match="must name a loaded"):
        pipe.stream("a star", image_prompts=[ImagePrompt(references[0], adapter="x")])
    assert [*first][-1].result is not None
    assert next(second).stage == "encode"


def test_the_scale_in_a_description_is_nobody_elses(
    tiny: Path, backend: str, open_pipeline: Open, references: list[Image.Image]
) -> None:
    pipe = open_pipeline(tiny, backend, "linear")
    pipe.set_ip_adapter_scale({"up": 0.5})
    quick = {"num_inference_steps": 1, "width": 32, "height": 32, "output_type": "latent"}
    info = pipe("a star", ip_adapter_image=references[0], **quick).info
    info["request"]["image_prompts"][0]["scale"]["up"] = 9.0
    pipe.info()["adapters"]["linear"]["scale"]["up"] = 8.0
    assert pipe.info()["adapters"]["linear"]["scale"] == {"up": 0.5}


def test_no_version_is_asked_for_after_the_picture(
    tiny: Path, backend: str, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this project there is one source, which a checkout that is not installed has, too."""
    import importlib.metadata

    def asked(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    pipe = open_pipeline(tiny, backend)
    monkeypatch.setattr(importlib.metadata, "version", asked)
    result = pipe("a star", num_inference_steps=1, width=32, height=32, output_type="latent")
    assert result.info["ipa_mlx"] == ipa.__version__
