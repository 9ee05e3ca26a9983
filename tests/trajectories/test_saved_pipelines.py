"""What today's diffusers and transformers write of every pipeline whose models are ours.

Each is saved, opened on both backends, and run against the pipeline that was saved.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors import safe_open

import ipa
from ipa.app.commands.convert import ConversionOptions, run_conversion
from ipa.errors import CheckpointError, RequestError
from ipa_torch.files.weights import quiet
from oracle import controlled, models, t2i_adapters
from oracle.pipelines import diffusers_pipeline
from oracle.runs.editing import mask_of, picture
from oracle.workshop import XL, Workshop

SIZE = (64, 64)
BACKENDS = ("mlx", "torch")
# Of the largest latent. Measured over all saved pipelines: 3.2e-6 MLX, 2.7e-6 torch.
LIMIT = 8e-6

_LCM = {
    **models.SCHEDULER,
    "_class_name": "LCMScheduler",
    "original_inference_steps": 50,
}
FAMILIES = {
    "sd": models.Tiny(unet=t2i_adapters.UNET),
    "xl": XL,
    "lcm": models.Tiny(unet=t2i_adapters.UNET | {"time_cond_proj_dim": 32}, scheduler=_LCM),
}
SAVED: dict[str, dict[str, Any]] = {
    "plain": {},
    "pickled": {"safe_serialization": False},
    "variant": {"variant": "fp16"},
    "shards": {"max_shard_size": "300KB"},
    "shards of a variant": {"max_shard_size": "300KB", "variant": "fp16"},
    "pickled shards": {"safe_serialization": False, "max_shard_size": "300KB"},
}
EDIT = {"strength": 0.7}


@dataclass(frozen=True)
class Case:
    """A class of diffusers, on a model of a family, saved in some ways.

    `beside` is a network that the pipeline holds beside the model; `call` is what it takes of
    "image", "mask" and "control", with diffusers' names for them.
    """

    kind: str
    family: str = "sd"
    beside: str = ""
    call: dict[str, Any] = field(default_factory=dict)
    saved: tuple[str, ...] = ("plain",)


IMAGE = {"image": "image", **EDIT}
MASKED = {**IMAGE, "mask_image": "mask"}
CASES = {
    "SD": Case("StableDiffusionPipeline", saved=tuple(SAVED)),
    "SD img2img": Case("StableDiffusionImg2ImgPipeline", call=IMAGE, saved=("variant",)),
    "SD inpaint": Case("StableDiffusionInpaintPipeline", call=MASKED, saved=("pickled",)),
    "SD ControlNet": Case(
        "StableDiffusionControlNetPipeline",
        beside="controlnet",
        call={"image": "control"},
        saved=("plain", "shards of a variant"),
    ),
    "SD ControlNet img2img": Case(
        "StableDiffusionControlNetImg2ImgPipeline",
        beside="controlnet",
        call={**IMAGE, "control_image": "control"},
    ),
    "SD ControlNet inpaint": Case(
        "StableDiffusionControlNetInpaintPipeline",
        beside="controlnet",
        call={**MASKED, "control_image": "control"},
        saved=("pickled shards",),
    ),
    "SD T2I-Adapter": Case(
        "StableDiffusionAdapterPipeline",
        beside="adapter",
        call={"image": "control"},
        saved=("plain", "variant"),
    ),
    "LCM": Case("LatentConsistencyModelPipeline", "lcm", saved=("plain", "variant")),
    "XL": Case(
        "StableDiffusionXLPipeline", "xl", saved=("plain", "shards of a variant", "pickled")
    ),
    "XL img2img": Case("StableDiffusionXLImg2ImgPipeline", "xl", call=IMAGE, saved=("shards",)),
    "XL inpaint": Case("StableDiffusionXLInpaintPipeline", "xl", call=MASKED, saved=("variant",)),
    "XL ControlNet": Case(
        "StableDiffusionXLControlNetPipeline",
        "xl",
        beside="controlnet",
        call={"image": "control"},
    ),
    "XL ControlNet img2img": Case(
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "xl",
        beside="controlnet",
        call={**IMAGE, "control_image": "control"},
    ),
    "XL ControlNet inpaint": Case(
        "StableDiffusionXLControlNetInpaintPipeline",
        "xl",
        beside="controlnet",
        call={**MASKED, "control_image": "control"},
    ),
    "XL T2I-Adapter": Case(
        "StableDiffusionXLAdapterPipeline", "xl", beside="adapter", call={"image": "control"}
    ),
}
INPUTS: dict[str, Callable[[], Image.Image]] = {
    "image": lambda: picture(SIZE),
    "mask": lambda: mask_of(SIZE),
    "control": lambda: Image.fromarray(controlled.edges(SIZE, 3)),
}
CALL: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "width": SIZE[0],
    "height": SIZE[1],
}


def _filled(call: dict[str, Any]) -> dict[str, Any]:
    return {k: INPUTS[v]() if isinstance(v, str) else v for k, v in call.items()}


def _network(case: Case) -> dict[str, Any]:
    """What the pipeline holds beside the model."""
    if case.beside == "controlnet":
        with torch.random.fork_rng(devices=[]):
            unet = diffusers.UNet2DConditionModel(**FAMILIES[case.family].unet)
            net = diffusers.ControlNetModel.from_unet(unet, **controlled.EMBEDDING)
        return {"controlnet": models.randomize(net, 31)}
    if case.beside == "adapter":
        config = t2i_adapters.XL if case.family == "xl" else t2i_adapters.FULL
        return {"adapter": t2i_adapters.adapter(32, **config)}
    return {}


@pytest.fixture(scope="module")
def stock(workshop: Workshop) -> Callable[[str], DiffusionPipeline]:
    """The pipelines of diffusers, none of which was ever saved."""
    known: dict[str, DiffusionPipeline] = {}

    def make(name: str) -> DiffusionPipeline:
        if name not in known:
            case = CASES[name]
            seed = 70 + [*FAMILIES].index(case.family)
            folder = workshop.model(f"saved_{case.family}", FAMILIES[case.family], seed=seed)
            base = diffusers_pipeline(folder)
            kind = getattr(diffusers, case.kind)
            with quiet():
                known[name] = kind.from_pipe(base, **_network(case))
            known[name].set_progress_bar_config(disable=True)
        return known[name]

    return make


@pytest.fixture(scope="module")
def theirs(stock: Callable[[str], DiffusionPipeline]) -> Callable[[str], np.ndarray]:
    known: dict[str, np.ndarray] = {}

    def run(name: str) -> np.ndarray:
        if name not in known:
            case = CASES[name]
            call = {**CALL, **_filled(case.call)}
            if case.beside == "controlnet":
                call["controlnet_conditioning_scale"] = 1.0  # the default of some is 0.8
            if case.call.get("image") == "image" and "mask_image" not in case.call:
                del call["width"], call["height"]  # which follow from the picture
            generator = torch.Generator().manual_seed(3)
            out = stock(name)("a star", generator=generator, output_type="latent", **call)
            known[name] = out.images.numpy()
        return known[name]

    return run


RUNS = [(name, how) for name, case in CASES.items() for how in case.saved]


def _ours(case: Case, folder: Path, backend: str, how: str) -> np.ndarray:
    variant = SAVED[how].get("variant")
    device = {"device": "cpu"} if backend == "torch" else {}
    pipe = ipa.load(folder, backend=backend, dtype="float32", variant=variant, **device)
    told = pipe.info()["warnings"]
    call = {**CALL, **_filled(case.call)}
    if case.beside:
        assert len(told) == 1 and f"{case.beside} is left out: load its folder" in told[0]
        load = pipe.load_controlnet if case.beside == "controlnet" else pipe.load_t2i_adapter
        load(folder / case.beside, variant=variant)
        control = call.pop("control_image", None) or call.pop("image")
        call["controls"] = ipa.Control(control)
    else:
        assert told == []
    if "image" in call:
        del call["width"], call["height"]
    return pipe("a star", seed=3, output_type="latent", **call).latents


@pytest.mark.parametrize(("name", "how"), RUNS)
def test_a_saved_pipeline(
    stock: Callable[[str], DiffusionPipeline],
    theirs: Callable[[str], np.ndarray],
    tmp_path: Path,
    name: str,
    how: str,
) -> None:
    with quiet():
        stock(name).save_pretrained(tmp_path, **SAVED[how])
    want = theirs(name)
    for backend in BACKENDS:
        got = _ours(CASES[name], tmp_path, backend, how)
        error = np.abs(got - want).max() / np.abs(want).max()
        assert error < LIMIT, (backend, error)


def _load(folder: Path, backend: str) -> ipa.Pipeline:
    device = {"device": "cpu"} if backend == "torch" else {}
    return ipa.load(folder, backend=backend, dtype="float32", **device)


def _near(pipe: ipa.Pipeline, want: np.ndarray, prompt: str = "a star", **more: Any) -> None:
    got = pipe(prompt, seed=3, output_type="latent", **CALL, **more).latents
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error < LIMIT, error


def _diffusers(pipe: DiffusionPipeline, prompt: str = "a star", **more: Any) -> np.ndarray:
    generator = torch.Generator().manual_seed(3)
    out = pipe(prompt, generator=generator, output_type="latent", **CALL, **more)
    return out.images.numpy()


@pytest.fixture(scope="module", params=["sd", "xl"])
def adapted(
    request: pytest.FixtureRequest, workshop: Workshop, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A model, and what diffusers writes of it while two IP-Adapters are loaded."""
    family = request.param
    seed = 70 + [*FAMILIES].index(family)
    plain = workshop.model(f"saved_{family}", FAMILIES[family], seed=seed)
    saved = tmp_path_factory.mktemp(f"adapted_{family}")
    pipe = diffusers_pipeline(plain, [plain / "linear.safetensors", plain / "plus.safetensors"])
    with quiet():
        pipe.save_pretrained(saved)
    with safe_open(saved / "unet/diffusion_pytorch_model.safetensors", framework="pt") as file:
        assert any("to_k_ip.1" in name for name in file.keys())  # noqa: SIM118 - it is no dict
    return plain, saved


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pipeline_saved_with_ip_adapters_is_its_base(
    adapted: tuple[Path, Path], backend: str, references: list[Image.Image]
) -> None:
    """The base model, bit for bit, and a warning; and adapters load onto it."""
    plain, saved = adapted
    pipe, base = _load(saved, backend), _load(plain, backend)
    (told,) = pipe.info()["warnings"]
    assert "IP-Adapter was loaded when this model was saved" in told and "load_ip_adapter" in told
    result = pipe("a star", seed=3, output_type="latent", **CALL)
    assert told in result.info["warnings"]
    wanted = base("a star", seed=3, output_type="latent", **CALL).latents
    if backend == "mlx":
        assert np.array_equal(result.latents, wanted)
    _near(pipe, _diffusers(diffusers_pipeline(plain)))
    pipe.load_ip_adapter(plain / "linear.safetensors", scale=0.7)
    steered = diffusers_pipeline(plain, [plain / "linear.safetensors"])
    steered.set_ip_adapter_scale(0.7)
    want = _diffusers(steered, ip_adapter_image=references[2])
    _near(pipe, want, ip_adapter_image=references[2])


@pytest.mark.parametrize("layout", ["mlx", "diffusers"])
def test_it_is_converted_without_them(
    adapted: tuple[Path, Path], tmp_path: Path, layout: str
) -> None:
    plain, saved = adapted
    options = ConversionOptions(layout=layout, verify=True)
    done = run_conversion(str(saved), tmp_path / "made", options)
    assert done.verified and any("IP-Adapter was loaded" in note for note in done.notes)
    record = json.loads((tmp_path / "made" / "conversion.json").read_text())
    dropped = {name for name, why in record["dropped"].items() if "IP-Adapter" in why}
    assert any("to_k_ip" in name for name in dropped)
    assert any(name.startswith("encoder_hid_proj.") for name in dropped)
    want = _diffusers(diffusers_pipeline(plain))
    for backend in BACKENDS if layout == "diffusers" else ("mlx",):
        pipe = _load(tmp_path / "made", backend)
        assert pipe.info()["warnings"] == []
        _near(pipe, want)
    if layout == "diffusers":
        assert np.array_equal(_diffusers(diffusers_pipeline(tmp_path / "made")), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pipeline_saved_with_learned_words(
    workshop: Workshop, tmp_path: Path, backend: str
) -> None:
    """They lie in its tokenizer and its text encoder, one word as several vectors."""
    pipe = diffusers_pipeline(workshop.model("saved_sd", FAMILIES["sd"], seed=70))
    draw = torch.Generator().manual_seed(4)
    width = models.TEXT["hidden_size"]
    for token, count in (("<cat-toy>", 3), ("<style>", 1)):
        rows = torch.randn(count, width, generator=draw)
        pipe.load_textual_inversion({token: rows}, token=token)
    with quiet():
        pipe.save_pretrained(tmp_path)
    prompt = "a <cat-toy> in a <style>, <cat-toy>"
    _near(_load(tmp_path, backend), _diffusers(pipe, prompt), prompt)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_no_config_should_say_is_told(
    workshop: Workshop, tmp_path: Path, backend: str
) -> None:
    """In what is loaded, in every result, and when it is converted."""
    pipe = diffusers_pipeline(workshop.model("saved_sd", FAMILIES["sd"], seed=70))
    with quiet():
        pipe.save_pretrained(tmp_path / "saved")
    strange = {
        "unet/config.json": {"swirl": 0.3, "decay": 0.999},
        "vae/config.json": {"swirl": 0.4},
        "text_encoder/config.json": {"swirl": 0.5},
        "image_encoder/config.json": {"swirl": 0.6},
        "scheduler/scheduler_config.json": {"swirl": 0.7},
        "model_index.json": {"swirl": ["diffusers", "Swirl"], "_class_name": "SwirlPipeline"},
    }
    for name, keys in strange.items():
        path = tmp_path / "saved" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    loaded = _load(tmp_path / "saved", backend)
    told = loaded.info()["warnings"]
    assert len(told) == 7 and not any("decay" in text for text in told)
    for name in strange:
        assert any(name in text and "wirl" in text for text in told), name
    assert loaded("a", **CALL, output_type="latent").info["warnings"] == told
    done = run_conversion(str(tmp_path / "saved"), tmp_path / "made", ConversionOptions())
    assert list(done.notes) == told


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_conversion_is_of_what_can_be_opened(
    workshop: Workshop, tmp_path: Path, file: str
) -> None:
    pipe = diffusers_pipeline(workshop.model("saved_sd", FAMILIES["sd"], seed=70))
    with quiet():
        pipe.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "tokenizer" / file
    path.unlink() if file == "tokenizer.json" else path.write_text('{"padding_side": "left"}')
    with pytest.raises(CheckpointError, match="tokenizer"):
        run_conversion(str(tmp_path / "saved"), tmp_path / "made", ConversionOptions(verify=True))
    assert not (tmp_path / "made").exists()


MIXTURES = (("unet",), ("vae", "text_encoder"), ("image_encoder",))


@pytest.mark.parametrize("having", MIXTURES, ids="+".join)
def test_a_variant_that_some_components_have(
    workshop: Workshop, tmp_path: Path, having: tuple[str, ...]
) -> None:
    """Those that have it are other networks than their plain files; diffusers is the judge."""
    plain = workshop.model("saved_sd", FAMILIES["sd"], seed=70)
    other = workshop.model("saved_sd_other", FAMILIES["sd"], seed=79)
    shutil.copytree(plain, tmp_path / "mixed", ignore=shutil.ignore_patterns("*.safetensors.*"))
    for component in having:
        for file in (other / component).glob("*.safetensors"):
            name = file.with_suffix(".other.safetensors").name
            shutil.copy(file, tmp_path / "mixed" / component / name)
    with quiet():
        pipe = DiffusionPipeline.from_pretrained(
            tmp_path / "mixed", variant="other", dtype=torch.float32, local_files_only=True
        )
    pipe.set_progress_bar_config(disable=True)
    call = {k: v for k, v in CALL.items() if k != "num_inference_steps"}
    made = pipe(
        "a star", generator=torch.Generator().manual_seed(3), num_inference_steps=1, **call
    ).images[0]
    options = ConversionOptions(variant="other", verify=True)
    done = run_conversion(str(tmp_path / "mixed"), tmp_path / "made", options)
    for backend, folder, variant in (
        ("mlx", "mixed", "other"),
        ("torch", "mixed", "other"),
        ("mlx", "made", None),
    ):
        loaded = ipa.load(tmp_path / folder, backend=backend, dtype="float32", variant=variant)
        mine = loaded("a star", seed=3, num_inference_steps=1, **call).images[0]
        assert np.abs(np.asarray(mine, int) - np.asarray(made, int)).max() <= 1
        told = [] if folder == "made" else list(done.notes)
        assert loaded.info()["warnings"] == told
    assert len(done.notes) == 1 and "the plain ones are taken" in done.notes[0]
    assert not any(f"{component}," in done.notes[0] for component in having)


def test_a_variant_that_no_component_has(workshop: Workshop) -> None:
    plain = workshop.model("saved_sd", FAMILIES["sd"], seed=70)
    with pytest.raises(ValueError, match="no such modeling files"):
        DiffusionPipeline.from_pretrained(plain, variant="fp8", local_files_only=True)
    for backend in BACKENDS:
        with pytest.raises(CheckpointError, match="no weights of the variant 'fp8'"):
            ipa.load(plain, backend=backend, variant="fp8")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_config_that_still_names_the_adapter(
    adapted: tuple[Path, Path], tmp_path: Path, backend: str
) -> None:
    """As diffusers' object has it while one is loaded, and some tools write it down."""
    plain, saved = adapted
    shutil.copytree(saved, tmp_path / "named")
    path = tmp_path / "named" / "unet" / "config.json"
    told = json.loads(path.read_text()) | {"encoder_hid_dim_type": "ip_image_proj"}
    path.write_text(json.dumps(told))
    pipe = _load(tmp_path / "named", backend)
    assert len(pipe.info()["warnings"]) == 1
    _near(pipe, _diffusers(diffusers_pipeline(plain)))
    run_conversion(str(tmp_path / "named"), tmp_path / "made", ConversionOptions())
    made = json.loads((tmp_path / "made" / "unet" / "config.json").read_text())
    assert made["encoder_hid_dim_type"] is None
    path.write_text(json.dumps(told | {"encoder_hid_dim_type": "text_proj"}))
    with pytest.raises(CheckpointError, match="text_proj"):
        _load(tmp_path / "named", backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_word_that_its_text_encoder_does_not_know(
    workshop: Workshop, tmp_path: Path, backend: str
) -> None:
    """An error before anything runs; diffusers' is an IndexError in the middle."""
    pipe = diffusers_pipeline(workshop.model("saved_sd", FAMILIES["sd"], seed=70))
    pipe.tokenizer.add_tokens(["<cat-toy>"])
    with quiet():
        pipe.save_pretrained(tmp_path)
    loaded = _load(tmp_path, backend)
    with pytest.raises(RequestError, match="'<cat-toy>', id 674 of 674"):
        loaded("a <cat-toy>", **CALL)
    with pytest.raises(IndexError):
        _diffusers(pipe, "a <cat-toy>")
    pipe = diffusers_pipeline(workshop.model("saved_sd", FAMILIES["sd"], seed=70))
    _near(loaded, _diffusers(pipe, "a star"))
