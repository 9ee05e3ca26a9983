"""Adapters as trainings and other programs leave them: on both backends the original's tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

import ipa
import ipa_convert
from ipa.errors import CheckpointError, IpaError, RequestError
from ipa.model.ignoring import NOTHING, Ignore
from ipa.model.sites import cross_attention_sites
from ipa.model.unet import UNetSpec
from ipa_torch.adapters import check_file
from ipa_torch.files.adapter_file import open_adapter
from oracle import adapters, models
from oracle.measure import relative
from oracle.spellings import CONTAINERS

Tensors = dict[str, torch.Tensor]
SITES = cross_attention_sites(UNetSpec.from_config(adapters.SD15))
WIDTH = adapters.SD15["cross_attention_dim"]
SAFE = CONTAINERS["safetensors"]


def _kinds() -> dict[str, Tensors]:
    sites = adapters.sites(adapters.SD15)
    made = {
        kind: models.adapter_tensors(kind, sites, context=WIDTH, feature=48)
        for kind in ("linear", "resampler", "mlp")
    }
    return made | {
        "faceid": adapters.face_tensors(adapters.SD15, "faceid", rank=4),
        "faceid_plus": adapters.face_tensors(adapters.SD15, "faceid_plus", rank=4),
    }


KINDS = _kinds()


def paths() -> list[str]:
    """Of all attentions in the order of their numbers, as diffusers has them."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**adapters.SD15)
    return [name.removesuffix(".processor") for name in unet.attn_processors]


PATHS = paths()
BASE: Tensors = {
    "unet.conv_in.weight": torch.randn(24, 4, 3, 3),
    f"unet.{PATHS[1]}.to_k.weight": torch.randn(24, WIDTH),
}


def head(tensors: Tensors, old: str, new: str) -> Tensors:
    return {new + n.removeprefix(old): t for n, t in tensors.items() if n.startswith(old)}


def by_path(tensors: Tensors, root: str) -> Tensors:
    """Sites as processors of attentions."""
    found = {}
    for name, tensor in head(tensors, "ip_adapter.", "").items():
        number, _, rest = name.partition(".")
        found[f"{root}{PATHS[int(number)]}.processor.{rest}"] = tensor
    return found


def projector(tensors: Tensors) -> Tensors:
    return head(tensors, "image_proj.", "image_proj_model.")


def numbered(tensors: Tensors) -> Tensors:
    return head(tensors, "ip_adapter.", "adapter_modules.")


def pickled(tensors: Tensors) -> Tensors:
    """accelerate's pytorch_model.bin: both copies, which share their memory."""
    return BASE | by_path(tensors, "unet.") | projector(tensors) | numbered(tensors)


def safe(tensors: Tensors) -> Tensors:
    """accelerate's model.safetensors: the first copy."""
    return BASE | by_path(tensors, "unet.") | projector(tensors)


def parallel(tensors: Tensors) -> Tensors:
    return {f"module.{name}": tensor for name, tensor in pickled(tensors).items()}


def compiled(tensors: Tensors) -> Tensors:
    return {f"module._orig_mod.{name}": tensor for name, tensor in safe(tensors).items()}


def by_the_script(tensors: Tensors) -> Tensors:
    """The recipe in the repository's README."""
    return head(tensors, "image_proj.", "image_proj.") | by_path(tensors, "ip_adapter.")


def listed(tensors: Tensors) -> Tensors:
    """Processors of diffusers hold lists of adapters."""
    sites = by_path(tensors, "unet.").items()
    return projector(tensors) | {
        name.replace("_ip.weight", "_ip.0.weight"): tensor for name, tensor in sites
    }


def by_number(tensors: Tensors) -> Tensors:
    return BASE | projector(tensors) | numbered(tensors)


def of_diffusers(tensors: Tensors) -> Tensors:
    """The projector named by diffusers' own class; sites by number."""
    named = adapters.load_in_diffusers(adapters.SD15, tensors).projector
    return {f"image_proj.{n}": t for n, t in named.items()} | head(
        tensors, "ip_adapter.", "ip_adapter."
    )


SPELLINGS: dict[str, Callable[[Tensors], Tensors]] = {
    "original": dict,
    "training, pickle": pickled,
    "training, safetensors": safe,
    "training, data parallel": parallel,
    "training, compiled": compiled,
    "training, numbered": by_number,
    "the authors' script": by_the_script,
    "diffusers' lists": listed,
    "diffusers' projector": of_diffusers,
}


def mlx(path: Path, ignore: Ignore = NOTHING) -> Any:
    return ipa_convert.read_adapter(path, SITES, WIDTH, ignore=ignore)[1]


def reference(path: Path) -> Tensors:
    file = open_adapter(path, SITES, NOTHING)
    check_file(file, SITES, WIDTH)
    return file.tensors(torch.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_original_s_tensors(spelling: str, kind: str, tmp_path: Path) -> None:
    tensors = SPELLINGS[spelling](KINDS[kind])
    for container in ("safetensors", "zip, protocol 4"):
        path = CONTAINERS[container](tensors, tmp_path / f"{container[:3]}.bin")
        converted = mlx(path)
        found = {t.tensor.name: t.array() for t in converted.values()}
        file = open_adapter(path, SITES, NOTHING)
        theirs = file.tensors(torch.float32)
        assert found.keys() == theirs.keys() == KINDS[kind].keys()
        for name, tensor in KINDS[kind].items():
            assert np.array_equal(found[name], tensor.numpy()), name
            assert torch.equal(theirs[name], tensor), name
        assert set(file.contents.left_out) == set(converted.dropped)


def test_true_numbers(tmp_path: Path) -> None:
    """Without a UNet at hand, the base is told from the paths."""
    path = SAFE(safe(KINDS["linear"]), tmp_path / "model.safetensors")
    found = ipa_convert.inspect(path)
    assert found.family == "IP-Adapter" and "linear" in found.variant
    assert "16 cross-attention sites" in found.remarks
    assert any("2 tensors of a frozen base model" in remark for remark in found.remarks)


def twins(tensors: Tensors) -> Tensors:
    name = f"unet.{PATHS[1]}.processor.to_k_ip.weight"
    return tensors | {name: tensors[name] + 1}


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if part not in n}


def misplaced(tensors: Tensors) -> Tensors:
    """One site at a path that no UNet has."""
    old = f"{PATHS[1]}.processor"
    return {n.replace(old, f"down_blocks.9.{old}"): t for n, t in tensors.items()}


def stray(tensors: Tensors) -> Tensors:
    return tensors | {f"unet.{PATHS[1]}.processor.gate.weight": torch.ones(3)}


WRONG: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "copies differ": (lambda t: twins(pickled(t)), "twice"),
    "a site is missing": (
        lambda t: without(f"{PATHS[1]}.processor.to_v")(safe(t)),
        "lacks keys or values of 1 of 32",
    ),
    "a site elsewhere": (lambda t: misplaced(safe(t)), "it has none for ip_adapter.down_blocks.9"),
    "an unknown layer": (lambda t: stray(safe(t)), "gate"),
    "no projector": (lambda t: without("image_proj")(safe(t)), "image_proj"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_for_the_right_reason(case: str, tmp_path: Path) -> None:
    change, words = WRONG[case]
    path = SAFE(change(KINDS["linear"]), tmp_path / "model.safetensors")
    messages = []
    for read in (mlx, reference):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        messages.append(str(caught.value))
    assert all(words in message for message in messages), messages


def _model(root: Path) -> None:
    models.build_with_adapters(root, models.Tiny(unet=adapters.SD15, text=_text()), seed=3)


def _text() -> dict[str, Any]:
    return models.TEXT | {"hidden_size": WIDTH, "num_attention_heads": 4}


def _load(folder: Path, backend: str, file: Path, **options: Any) -> ipa.Pipeline:
    device = {"device": "cpu"} if backend == "torch" else {}
    pipe = ipa.load(folder, backend=backend, dtype="float32", **device)
    encoder = str(folder / "image_encoder")
    pipe.load_ip_adapter(file, name="a", image_encoder_folder=encoder, **options)
    return pipe


def test_what_is_left_out_is_told(
    backend: str, tmp_path: Path, workshop: Any, references: list[Image.Image]
) -> None:
    """A run with a training's checkpoint is that with the plain file, and says what it lacks."""
    folder = workshop.made("trained", _model)
    sites = adapters.sites(adapters.SD15)
    feature = models.VISION["projection_dim"]
    tensors = models.adapter_tensors("linear", sites, context=WIDTH, feature=feature)
    call: dict[str, Any] = {"num_inference_steps": 1, "width": 64, "height": 64}
    found, info = [], {}
    for spell in (dict, pickled):
        path = CONTAINERS["zip, protocol 4"](spell(tensors), tmp_path / "a.bin")
        pipe = _load(folder, backend, path)
        result = pipe("a", ip_adapter_image=references[0], output_type="latent", **call)
        found.append(result.latents)
        info = pipe.info()["adapters"]["a"]
    if backend == "mlx":
        assert np.array_equal(found[0], found[1])
    # Measured 0; another order of sums makes 1.9e-6 (tests/laws/test_loras.py).
    assert relative(found[0], found[1]) < 4e-6
    assert info["left_out"] == {"unet.*": 2, "adapter_modules.*": 32}
    assert any("left out of a.bin: 34 tensors" in text for text in result.info["warnings"])


def test_ignored_by_name(backend: str, tmp_path: Path, workshop: Any) -> None:
    folder = workshop.made("trained", _model)
    feature = models.VISION["projection_dim"]
    sites = adapters.sites(adapters.SD15)
    tensors = models.adapter_tensors("linear", sites, context=WIDTH, feature=feature)
    path = SAFE(tensors | {"image_proj.more": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError):
        _load(folder, backend, path)
    pipe = _load(folder, backend, path, ignore=["image_proj.more"])
    assert pipe.info()["adapters"]["a"]["left_out"] == {"image_proj.more": 1}
    for pattern, words in (
        ("image_proj.mor", "did you mean image_proj.more"),
        ("image_proj.norm.*", "that the model needs"),
        ("*", "ignore takes names"),
    ):
        with pytest.raises(IpaError, match=words):
            _load(folder, backend, path, ignore=["image_proj.more", pattern])
    with pytest.raises(RequestError, match=r"no such argument.*ignored=.*ignore="):
        _load(folder, backend, path, ignored=["image_proj.more"])
