"""What the reference refuses to load, with which words, and what it must accept."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from ipa.errors import BackendError, CheckpointError, IpaError, RequestError
from ipa.model.files import STEMS
from ipa.model.folder import AdapterFiles
from ipa.sources.model_folder import open_model_folder
from ipa_torch.backend import TorchBackend, load
from ipa_torch.files.weights import load_component, quiet
from oracle import models
from oracle.sealed import unseal

Tensors = dict[str, torch.Tensor]
Open = Callable[..., TorchBackend]
CLASSES: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "image_encoder": CLIPVisionModelWithProjection,
}
# A matrix of each component, which the tests damage.
VICTIMS = {
    "unet": "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "vae": "decoder.mid_block.attentions.0.to_q.weight",
    "text_encoder": "encoder.layers.1.mlp.fc1.weight",
    "image_encoder": "vision_model.encoder.layers.1.mlp.fc1.weight",
}


def rewrite(path: Path, change: Callable[[Tensors], Any], **metadata: str) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata or None)


def damage(name: str, path: Path, victim: str) -> None:
    """One kind of damage, named as in `DAMAGE`."""

    def put(make: Callable[[torch.Tensor], torch.Tensor]) -> None:
        rewrite(path, lambda t: t.update({victim: make(t[victim])}))

    def poison(tensor: torch.Tensor, value: float) -> torch.Tensor:
        tensor.view(-1)[tensor.numel() // 2] = value
        return tensor

    content = path.read_bytes()
    actions: dict[str, Callable[[], Any]] = {
        "missing": lambda: rewrite(path, lambda t: t.pop(victim)),
        "spare": lambda: rewrite(path, lambda t: t.update({"spare.weight": torch.ones(2)})),
        "misshapen": lambda: put(lambda t: torch.cat([t, t])),
        "integers": lambda: put(lambda t: t.int()),
        "float8": lambda: put(lambda t: t.to(torch.float8_e4m3fn)),
        "NaN": lambda: put(lambda t: poison(t, torch.nan)),
        "infinity": lambda: put(lambda t: poison(t, -torch.inf)),
        "converted": lambda: rewrite(path, lambda t: t, ipa_layout="1"),
        "cut off": lambda: path.write_bytes(content[:-40]),
        "cut in the header": lambda: path.write_bytes(content[:60]),
        "pointer": lambda: path.write_text("version https://git-lfs.github.com/spec/v1\noid"),
        "web page": lambda: path.write_text("<!DOCTYPE html><html></html>"),
        "pickle": lambda: path.write_bytes(b"\x80\x02}q\x00."),
        "empty": lambda: path.write_bytes(b""),
        "absent": lambda: path.unlink(),
    }
    actions[name]()


# Damage, and what the message must say; {victim} is the tensor's name.
DAMAGE = {
    "missing": "{victim}",
    "spare": "spare.weight",
    "misshapen": "{victim}",
    "integers": "{victim} is no floating-point weight; found: I32",
    "float8": "{victim} is no floating-point weight; found: F8_E4M3",
    "NaN": "{victim} holds values that are not finite; found: NaN",
    "infinity": "{victim} holds values that are not finite",
    "converted": "was converted for MLX",
    "cut off": "is damaged",
    "cut in the header": "",
    "pointer": "Git LFS pointer",
    "web page": "a web page",
    "pickle": "a pickle",
    "empty": "an empty file",
    "absent": "",
}


@pytest.mark.parametrize("component", CLASSES)
@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_component(name: str, component: str, tiny: Path, tmp_path: Path) -> None:
    folder, victim = tmp_path / component, VICTIMS[component]
    shutil.copytree(tiny / component, folder)
    damage(name, folder / f"{STEMS[component]}.safetensors", victim)
    with pytest.raises(CheckpointError) as caught:
        load_component(CLASSES[component], component, folder, torch.float32, None)
    message = str(caught.value)
    assert DAMAGE[name].format(victim=victim) in message
    assert component in message
    assert "remedy" in message


ADAPTER_VICTIMS = {
    "linear": "image_proj.proj.bias",
    "plus": "image_proj.layers.2.0.to_kv.weight",
    "full": "image_proj.proj.2.weight",
}


@pytest.mark.parametrize("kind", ADAPTER_VICTIMS)
@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_adapter(
    name: str, kind: str, base: TorchBackend, tiny: Path, tmp_path: Path
) -> None:
    """Refused, and nothing of it stays behind."""
    path = Path(shutil.copy(tiny / f"{kind}.safetensors", tmp_path / "adapter.safetensors"))
    damage(name, path, ADAPTER_VICTIMS[kind])
    before = base.describe()["bytes"]
    with pytest.raises(CheckpointError) as caught:
        attach(base, path)
    if name not in {"missing", "misshapen"}:  # there torch names its module's parameter
        assert DAMAGE[name].format(victim=ADAPTER_VICTIMS[kind]) in str(caught.value)
    assert base.describe()["bytes"] == before
    with pytest.raises(KeyError):
        base.unload_adapter("x")


@pytest.fixture(scope="module")
def bare(tiny: Path, open_reference: Open) -> TorchBackend:
    return open_reference(tiny)


@pytest.fixture
def base(bare: TorchBackend) -> TorchBackend:
    """Without adapters; a test's own."""
    return unseal(copy.deepcopy(bare))


def attach(runtime: TorchBackend, path: Path, encoder: Path | None = None) -> None:
    runtime.load_adapter("x", AdapterFiles(name="x", weights=path, image_encoder=encoder))


@pytest.mark.parametrize("kind", ADAPTER_VICTIMS)
def test_every_tensor_of_an_adapter_counts(
    kind: str, base: TorchBackend, tiny: Path, tmp_path: Path
) -> None:
    """Take any one away, or fold it into another shape: one of the three for each, in turn."""
    tensors = load_file(tiny / f"{kind}.safetensors")
    path = tmp_path / "adapter.safetensors"
    picked = [k for k in tensors if k.startswith(("image_proj.", "ip_adapter.13."))]
    for number, name in enumerate(picked):
        changed = (None, tensors[name][None], tensors[name].flatten()[:-1])[number % 3]
        wrong = {k: v for k, v in tensors.items() if k != name}
        save_file(wrong if changed is None else wrong | {name: changed.clone()}, path)
        with pytest.raises(CheckpointError):
            attach(base, path)


SPARE = (
    "ip_adapter.1.extra.weight",
    "ip_adapter.0.to_q_lora.down.weight",  # a FaceID file's
    "ip_adapter.2.to_k_ip.weight",
    "image_proj.extra.weight",
    "stray",
)


@pytest.mark.parametrize("spare", SPARE)
def test_adapter_with_spare_tensors(
    spare: str, base: TorchBackend, tiny: Path, tmp_path: Path
) -> None:
    path = tmp_path / "adapter.safetensors"
    for kind in ADAPTER_VICTIMS:
        tensors = load_file(tiny / f"{kind}.safetensors") | {spare: torch.ones(3, 40)}
        save_file(tensors, path)
        with pytest.raises(CheckpointError):
            attach(base, path)


def test_adapter_for_another_base(base: TorchBackend, tmp_path: Path) -> None:
    """Another context width, other sites, or another number of sites."""
    shared: dict[str, Any] = {"feature": models.VISION["projection_dim"]}
    sites = models.unet_sites(models.UNET)
    wrong = {
        "context width 44": models.adapter_tensors("linear", sites, context=44, **shared),
        "does not fit": models.adapter_tensors("linear", sites[::-1], context=40, **shared)
        | {f"ip_adapter.1.to_{x}_ip.weight": torch.ones(72, 40) for x in "kv"},
        "lacks keys or values of 2 of": models.adapter_tensors(
            "linear", sites[:-1], context=40, **shared
        ),
    }
    for words, tensors in wrong.items():
        path = models.write_adapter(tmp_path / "adapter.safetensors", tensors)
        with pytest.raises(CheckpointError, match=words):
            attach(base, path)


def test_adapters_that_diffusers_cannot_load(base: TorchBackend, tmp_path: Path) -> None:
    """It assumes four tokens and four layers: others would be read as something else."""
    sites = models.unet_sites(models.UNET)
    five = models.adapter_tensors("linear", sites, context=40, feature=36, tokens=5)
    deep = models.adapter_tensors("resampler", sites, context=40, feature=48)
    deep |= {
        k.replace("layers.3.", "layers.4."): v.clone() for k, v in deep.items() if ".layers.3." in k
    }
    for tensors in (five, deep):
        path = models.write_adapter(tmp_path / "adapter.safetensors", tensors)
        with pytest.raises(CheckpointError, match="diffusers assumes 4"):
            attach(base, path)


def test_encoder_that_does_not_fit(base: TorchBackend, tiny: Path, tmp_path: Path) -> None:
    vision = CLIPVisionModelWithProjection.config_class(**models.VISION | {"projection_dim": 20})
    with quiet():
        CLIPVisionModelWithProjection(vision).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"projection_dim 20.*width 36.*image_encoder_folder"):
        attach(base, tiny / "linear.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=r"48 channels do not divide into attention heads"):
        config = json.loads((tmp_path / "config.json").read_text())
        config |= {"num_attention_heads": 7, "projection_dim": 36}
        (tmp_path / "config.json").write_text(json.dumps(config))
        attach(base, tiny / "linear.safetensors", tmp_path)


def test_model_without_an_encoder(tiny: Path, tmp_path: Path, open_reference: Open) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("image_encoder"))
    own = open_reference(folder)
    with pytest.raises(CheckpointError, match=r"needs an image encoder.*image_encoder_folder="):
        attach(own, folder / "linear.safetensors")
    attach(own, folder / "linear.safetensors", tiny / "image_encoder")


@pytest.mark.parametrize("device", ["cuda:99", "meta", "nonsense", "xpu", ""])
def test_unusable_device(device: str, tiny: Path) -> None:
    with pytest.raises(BackendError, match=r"device .*remedy: leave device= out"):
        load(open_model_folder(tiny, name="tiny"), device=device)


@pytest.mark.parametrize("dtype", ["double", "fp16", "int8", 16])
def test_unknown_dtype(dtype: Any, tiny: Path) -> None:
    with pytest.raises(RequestError, match="float64, float32, float16, bfloat16"):
        load(open_model_folder(tiny, name="tiny"), dtype=dtype, device="cpu")


def test_defaults_follow_the_device(tiny: Path, open_reference: Open) -> None:
    assert open_reference(tiny, dtype=None, device="cpu").dtype == "float32"
    assert open_reference(tiny, dtype=None, device="cpu:0").dtype == "float32"
    fastest = load(open_model_folder(tiny, name="tiny"))
    assert fastest.dtype == ("float32" if fastest.device == "cpu" else "float16")
    assert fastest.unet.device.type == fastest.device.partition(":")[0]


def test_weights_too_large_for_half(tiny: Path, tmp_path: Path, base: TorchBackend) -> None:
    """Sound in float32; in float16 they become infinite, which the message tells."""
    path = Path(shutil.copy(tiny / "linear.safetensors", tmp_path))
    rewrite(path, lambda t: t["ip_adapter.13.to_k_ip.weight"].mul_(1e6))
    attach(base, path)
    base.unload_adapter("x")
    half = load(open_model_folder(tiny, name="tiny"), dtype="float16", device="cpu")
    with pytest.raises(CheckpointError, match=r"ip_adapter\.13.*float16.*float32"):
        attach(half, path)
    folder = tmp_path / "unet"
    shutil.copytree(tiny / "unet", folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    rewrite(weights, lambda t: t["conv_in.weight"].mul_(1e6))
    with pytest.raises(CheckpointError, match=r"conv_in\.weight.*float16.*float32"):
        load_component(UNet2DConditionModel, "unet", folder, torch.float16, None)


def test_old_names_are_accepted(tiny: Path, tmp_path: Path) -> None:
    """The VAE of Stable Diffusion 1.5 has old attention names, its text tower position_ids."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: Tensors) -> None:
        for name in [n for n in tensors if ".attentions.0." in n]:
            for new, former in old.items():
                if f".{new}." in name:
                    tensors[name.replace(f".{new}.", f".{former}.")] = tensors.pop(name)

    for component in ("vae", "text_encoder"):
        shutil.copytree(tiny / component, tmp_path / component)
    rewrite(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", rename)
    rewrite(
        tmp_path / "text_encoder" / "model.safetensors",
        lambda t: t.update({"embeddings.position_ids": torch.arange(77)[None]}),
    )
    for component in ("vae", "text_encoder"):
        kind = CLASSES[component]
        found, expected = (
            load_component(kind, component, root / component, torch.float32, None).state_dict()
            for root in (tmp_path, tiny)
        )
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_shards_and_variants(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Several files, or files tagged fp16, load alike and without a word on the terminal."""
    expected = load_file(tiny / "unet" / "diffusion_pytorch_model.safetensors")
    with quiet():
        unet = UNet2DConditionModel.from_pretrained(tiny / "unet")
        unet.save_pretrained(tmp_path / "shards", max_shard_size="400KB")
        unet.save_pretrained(tmp_path / "tagged", variant="fp16")
        encoder = CLIPVisionModelWithProjection.from_pretrained(tiny / "image_encoder")
        encoder.save_pretrained(tmp_path / "encoder", max_shard_size="60KB")
    shards = sorted((tmp_path / "shards").glob("*-of-*.safetensors"))
    assert len(shards) > 2
    assert len(list((tmp_path / "encoder").glob("*-of-*.safetensors"))) > 2
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for folder, variant in (("shards", None), ("tagged", "fp16")):
            module = load_component(
                UNet2DConditionModel, "unet", tmp_path / folder, torch.float32, variant
            )
            state = module.state_dict()
            assert all(torch.equal(state[name], expected[name]) for name in expected)
        kind = CLIPVisionModelWithProjection
        load_component(kind, "image_encoder", tmp_path / "encoder", torch.float32, None)
    assert capfd.readouterr() == ("", "")
    assert [str(w.message) for w in caught if issubclass(w.category, FutureWarning)] == []
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=shards[1].name):
        load_component(UNet2DConditionModel, "unet", tmp_path / "shards", torch.float32, None)


CONFIGS = {
    "unet": {"norm_num_groups": 7},
    "vae": {"sample_size": "x"},
    "text_encoder": {"num_attention_heads": 7},
    "image_encoder": {"patch_size": 5},
}


@pytest.mark.parametrize("component", CONFIGS)
def test_config_that_does_not_belong(component: str, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / component
    shutil.copytree(tiny / component, folder)
    config = json.loads((folder / "config.json").read_text()) | CONFIGS[component]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(IpaError, match=r"config\.json"):
        load_component(CLASSES[component], component, folder, torch.float32, None)


def test_loaded_weights_are_frozen_and_in_eval_mode(tiny: Path, open_reference: Open) -> None:
    own = open_reference(tiny, "plus")
    for module in (own.unet, own.vae, own.text_encoder):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
        assert not any(np.isnan(p.numpy()).any() for p in module.parameters())
