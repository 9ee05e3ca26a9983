"""Public repositories' own configs, widths made small: read without a warning, and run.

Every one that is a model of ours takes a step on both backends, against diffusers' pipeline of
its model_index.json; the others are refused for a plain reason before any weight is read.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers import DiffusionPipeline

import ipa
from ipa.errors import CheckpointError
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa.model.config import Keys
from ipa.model.controlnet import ControlNetSpec
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa.model.unet import UNetSpec
from ipa.model.vae import TinyVaeSpec, VaeSpec
from ipa.prepare.samplers.families import unread_scheduler
from ipa.sources.model_folder import open_model_folder
from ipa_torch.files.weights import quiet
from oracle import models, public_models
from oracle.public_models import COMPONENTS, MODELS, PublicModel
from oracle.runs.editing import mask_of, picture

ACCEPTED = [name for name, model in MODELS.items() if not model.refused]
REFUSED = [name for name, model in MODELS.items() if model.refused]
SIZE = (64, 64)
CALL: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": 3.0}
# Of the largest latent. Measured on all of them: 2.7e-6 MLX, 2.2e-6 torch (sd-turbo).
LIMIT = 4e-6
_SHAPES = ("in_channels", "layers_per_block", "attention_head_dim", "block_out_channels")
_SHAPES = (*_SHAPES, "cross_attention_dim", "time_cond_proj_dim", "transformer_layers_per_block")

Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The folder of a model by name; those of one structure have the same weights."""
    root, known, made = tmp_path_factory.mktemp("public"), {}, {}

    def make(name: str) -> Path:
        if name not in made:
            model = MODELS[name]
            tiny = public_models.tiny(model)
            shape = json.dumps([tiny.unet.get(key) for key in _SHAPES])
            if shape not in known:
                place = root / f"weights{len(known)}"
                known[shape] = models.build_folder(place, tiny, seed=20 + len(known))
            made[name] = public_models.write(model, known[shape], root / name.replace("/", "_"))
        return made[name]

    return make


def _call(model: PublicModel) -> dict[str, Any]:
    if model.unet["in_channels"] == 4:
        return dict(CALL)
    return {**CALL, "image": picture(SIZE), "mask_image": mask_of(SIZE), "strength": 1.0}


@pytest.fixture(scope="module")
def theirs(public: Make) -> Callable[[str], np.ndarray]:
    """diffusers' latents, once for both backends."""
    known: dict[str, np.ndarray] = {}

    def run(name: str) -> np.ndarray:
        if name not in known:
            model, left_out = MODELS[name], ("safety_checker", "feature_extractor")
            none = {key: None for key in left_out if key in model.index}
            with quiet():
                pipe = DiffusionPipeline.from_pretrained(
                    public(name), local_files_only=True, dtype=torch.float32, **none
                )
            pipe.set_progress_bar_config(disable=True)
            assert type(pipe).__name__ == model.pipeline
            generator = torch.Generator().manual_seed(5)
            size = {"width": SIZE[0], "height": SIZE[1]}
            out = pipe(
                "a red star", generator=generator, output_type="latent", **_call(model), **size
            )
            known[name] = out.images.numpy()
        return known[name]

    return run


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_one_step(
    public: Make, theirs: Callable[[str], np.ndarray], name: str, backend: str
) -> None:
    device = {"device": "cpu"} if backend == "torch" else {}
    pipe = ipa.load(public(name), backend=backend, dtype="float32", **device)
    assert pipe.info()["warnings"] == []
    more = _call(MODELS[name])
    if "image" not in more:
        more |= {"width": SIZE[0], "height": SIZE[1]}
    latents = pipe("a red star", seed=5, output_type="latent", **more).latents
    error = np.abs(latents - theirs(name)).max() / np.abs(theirs(name)).max()
    assert error < LIMIT, error


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_model_of_ours_is_refused_by_name(tmp_path: Path, name: str) -> None:
    model = MODELS[name]
    for path, config in public_models.configs(model).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(json.dumps(config))
        if path.endswith("/config.json"):
            stem = "model" if path.startswith("text") else "diffusion_pytorch_model"
            weights = tmp_path / Path(path).parent / f"{stem}.safetensors"
            weights.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match=model.refused):
        open_model_folder(tmp_path, name=name)


SPECS: dict[str, Any] = {
    "unet": UNetSpec,
    "vae": VaeSpec,
    "text_encoder": ClipTextSpec,
    "image_encoder": ClipVisionSpec,
    "controlnet": ControlNetSpec,
    "t2i_adapter": T2IAdapterSpec,
    "tiny_vae": TinyVaeSpec,
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_configs_of_lone_networks(name: str) -> None:
    kind, config = COMPONENTS[name]
    assert SPECS[kind].from_config(config, name).unread == ()


@pytest.mark.parametrize("name", ACCEPTED)
def test_configs_at_their_true_sizes(name: str) -> None:
    model = MODELS[name]
    texts = [text for text in (model.text, model.text_2) if text is not None]
    specs = [UNetSpec.from_config(model.unet), VaeSpec.from_config(model.vae)]
    specs += [ClipTextSpec.from_config(text) for text in texts]
    assert [spec.unread for spec in specs] == [()] * len(specs)


CLASSES: dict[str, Any] = {
    "unet": diffusers.UNet2DConditionModel,
    "vae": diffusers.AutoencoderKL,
    "controlnet": diffusers.ControlNetModel,
    "t2i_adapter": diffusers.T2IAdapter,
    "tiny_vae": diffusers.AutoencoderTiny,
}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_key_of_diffusers_classes_is_known(kind: str) -> None:
    """And the value that is implemented is the one of a config that does not name it."""
    keys: Keys = SPECS[kind].keys
    parameters = dict(inspect.signature(CLASSES[kind].__init__).parameters)
    defaults = {k: v.default for k, v in parameters.items() if k != "self"}
    assert keys.check(defaults, kind) == ()
    for key, value in keys.fixed.items():
        assert value == defaults.get(key), key


@pytest.mark.parametrize(
    ("spec", "kind"),
    [(ClipTextSpec, transformers.CLIPTextConfig), (ClipVisionSpec, transformers.CLIPVisionConfig)],
)
def test_every_key_of_transformers_configs_is_known(spec: Any, kind: Any) -> None:
    assert spec.from_config(kind().to_dict()).unread == ()


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"])
def test_every_key_of_a_scheduler_is_known(name: str) -> None:
    kind = getattr(diffusers, f"{name}Scheduler")
    config = json.loads(kind().to_json_string())
    assert unread_scheduler(config, "x") == ()
    assert len(unread_scheduler({**config, "swing": 0.5}, "x")) == 1


UNKNOWN = {"swirl": 0.3, "swing": [1, 2], "_note": 3, "silent": None}


@pytest.mark.parametrize("kind", SPECS)
def test_a_key_that_nobody_knows_is_told(kind: str) -> None:
    config = {"unet": MODELS[ACCEPTED[0]].unet, "text_encoder": {}}.get(kind)
    if config is None:
        config = next(config for own, config in COMPONENTS.values() if own == kind)
    spec = SPECS[kind].from_config({**config, **UNKNOWN}, "x/config.json")
    assert [text.partition(" is unknown")[0] for text in spec.unread] == [
        "x/config.json: swirl = 0.3",
        "x/config.json: swing = [1, 2]",
    ]
    assert spec == SPECS[kind].from_config(config, "x/config.json")
