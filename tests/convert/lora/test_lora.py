"""LoRAs in every public spelling, against diffusers' and PEFT's own fusing, and the formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from ipa.model.clip import ClipTextSpec
from ipa.model.unet import UNetSpec
from ipa_convert import Lora, LoraTargets, convert_lora, read_lora
from ipa_convert.lora import names as lora_names
from ipa_convert.lora.pairs import delta
from ipa_convert.tables import ldm
from ipa_mlx.networks.clip import TextEncoder
from ipa_mlx.networks.unet import UNet
from oracle import loras, models
from oracle.loras import File, Pair, Place

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
DOTTED = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out_0"}
SHORT = DOTTED | {"to_out.0": "to_out"}
HUGGING = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "out_proj"}


@dataclass(frozen=True)
class Base:
    """A model, the layers that a LoRA may change, and the UNet's original names."""

    name: str
    targets: LoraTargets
    build: Callable[[], Any]
    modules: Mapping[Place, torch.nn.Module]

    @property
    def original(self) -> dict[str, str]:
        paths = [path for component, path in self.modules if component == "unet"]
        names = ldm.unet_names(paths, self.targets.unet)
        return {here: there for there, here in names.items()}


SD = Base(
    "sd",
    LoraTargets(
        unet=UNetSpec.from_config(loras.SD_UNET),
        text_encoder=ClipTextSpec.from_config(models.TEXT),
    ),
    loras.sd_pipeline,
    loras.layers(loras.sd_pipeline()),
)
SDXL = Base(
    "sdxl",
    LoraTargets(
        unet=UNetSpec.from_config(loras.SDXL_UNET),
        text_encoder=ClipTextSpec.from_config(loras.SDXL_TEXT),
        text_encoder_2=ClipTextSpec.from_config(loras.SDXL_TEXT_2),
    ),
    loras.sdxl_pipeline,
    loras.layers(loras.sdxl_pipeline()),
)
BASES = {"sd": SD, "sdxl": SDXL}


def write(path: Path, file: File) -> Path:
    tensors = {name: tensor.contiguous() for name, tensor in file.tensors.items()}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt", **(file.metadata or {})})
    return path


def deltas(lora: Lora) -> dict[Place, np.ndarray]:
    return {(p.module.component, p.module.path): delta(p, "diffusers") for p in lora.values()}


def check_formula(lora: Lora, pairs: Mapping[Place, Pair]) -> None:
    found = deltas(lora)
    assert found.keys() == pairs.keys()
    for place, pair in pairs.items():
        assert found[place].dtype == np.float32
        assert (np.abs(found[place] - pair.delta.numpy()) <= pair.rounding().numpy()).all(), place


def uniform(pairs: Mapping[Place, Pair]) -> dict[Place, Pair]:
    """One alpha a network: diffusers 0.42.1 forgets others of kohya's attention layers."""
    alphas = {"unet": 3.0, "text_encoder": 0.75, "text_encoder_2": 5.0}
    return {place: Pair(p.down, p.up, alphas[place[0]]) for place, p in pairs.items()}


def unet_part(pairs: Mapping[Place, Pair]) -> dict[Place, Pair]:
    return {place: pair for place, pair in pairs.items() if place[0] == "unet"}


def attention_part(pairs: Mapping[Place, Pair]) -> dict[Place, Pair]:
    return loras.only(pairs, ATTENTION)


def some(pairs: Mapping[Place, Pair]) -> dict[Place, Pair]:
    """Every fifth layer of the UNet; PEFT takes seconds for all of SDXL."""
    unet = list(unet_part(pairs))
    wanted = {*unet[::5], *(place for place in unet if "add_embedding" in place[1])}
    return {place: p for place, p in pairs.items() if place[0] != "unet" or place in wanted}


def same(pairs: Mapping[Place, Pair]) -> dict[Place, Pair]:
    return dict(pairs)


Part = Callable[[Mapping[Place, Pair]], dict[Place, Pair]]
Spell = Callable[[Mapping[Place, Pair], Base], File]


def without_level(path: str) -> str:
    """As transformers names layers from 5.6 on."""
    return path.removeprefix("text_model.")


def in_peft(**options: Any) -> Spell:
    return lambda pairs, _: loras.peft(loras.without_alphas(pairs), **options)


def in_face(prefix: str, words: Mapping[str, str]) -> Spell:
    return lambda pairs, _: loras.face(pairs, prefix=prefix, words=words)


# Each spelling: the part of a model that it reaches, whether it has alphas, and how it is written.
SPELLINGS: dict[str, tuple[Part, bool, Spell]] = {
    "kohya": (same, True, lambda p, b: loras.kohya(p, b.name)),
    "kohya, original names": (same, True, lambda p, b: loras.kohya(p, b.name, b.original)),
    "diffusers, old": (attention_part, False, lambda p, _: loras.old(p)),
    "diffusers, middle": (same, False, lambda p, _: loras.middle(p)),
    "PEFT": (same, False, in_peft()),
    "PEFT, named": (same, False, in_peft(adapter=".default")),
    "PEFT, flat": (
        same,
        False,
        lambda p, _: loras.peft(
            {(c, without_level(n)): x for (c, n), x in loras.without_alphas(p).items()}
        ),
    ),
    "PEFT, wrapped": (same, False, in_peft(head="base_model.model.{component}.")),
    "PEFT, wrapped inside": (same, False, in_peft(head="{component}.base_model.model.")),
    "PEFT, configured": (
        same,
        True,
        lambda p, _: loras.peft(p, config=loras.peft_config(p)),
    ),
    "diffusers, old, a UNet alone": (
        lambda p: unet_part(attention_part(p)),
        False,
        lambda p, _: loras.old(p, head=False),
    ),
    "PEFT, a UNet alone": (unet_part, False, in_peft(head="base_model.model.")),
    "bare": (unet_part, False, in_peft(head="")),
    "ComfyUI": (unet_part, False, lambda p, b: loras.comfy(p, b.original)),
    "FaceID": (lambda p: unet_part(attention_part(p)), True, in_face("lora_unet_", DOTTED)),
    "FaceID, to_out": (lambda p: unet_part(attention_part(p)), True, in_face("lora_unet_", SHORT)),
    "FaceID, early SDXL": (lambda p: unet_part(attention_part(p)), True, in_face("", HUGGING)),
}


@pytest.mark.matrix
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_formula(spelling: str, base: str, tmp_path: Path) -> None:
    model, (part, alphas, spell) = BASES[base], SPELLINGS[spelling]
    pairs = part(loras.random_pairs(model.modules, seed=1, alphas=alphas))
    path = write(tmp_path / "lora.safetensors", spell(pairs, model))
    check_formula(read_lora(path, model.targets), pairs)


# Where diffusers reads a spelling, and what it leaves out without an error.
JUDGED: dict[tuple[str, str], tuple[Part, Callable[[Place], bool]]] = {
    ("kohya", "sd"): (same, lambda _: False),
    ("kohya, original names", "sd"): (same, lambda place: place[0] == "unet"),
    ("diffusers, old", "sd"): (same, lambda _: False),
    ("diffusers, middle", "sd"): (same, lambda _: False),
    ("PEFT", "sd"): (same, lambda _: False),
    ("kohya", "sdxl"): (some, lambda place: "add_embedding" in place[1]),
    ("kohya, original names", "sdxl"): (same, lambda _: False),
    ("diffusers, old", "sdxl"): (some, lambda _: False),
    ("diffusers, middle", "sdxl"): (some, lambda _: False),
    ("PEFT", "sdxl"): (some, lambda _: False),
}
# diffusers places these of the original names well even for SD1.x.
ENDS = {"conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"}


@pytest.mark.matrix
@pytest.mark.parametrize(("spelling", "base"), JUDGED)
def test_diffusers_fuses_the_same(spelling: str, base: str, tmp_path: Path) -> None:
    model, (part, alphas, spell) = BASES[base], SPELLINGS[spelling]
    choice, lost = JUDGED[spelling, base]
    pairs = loras.random_pairs(model.modules, seed=2, ranks=(4,))
    pairs = choice(part(uniform(pairs)))
    path = write(tmp_path / "lora.safetensors", spell(pairs, model))
    found, fused = deltas(read_lora(path, model.targets)), loras.fused(model.build, path)
    assert found.keys() == pairs.keys()
    missing = {place for place in pairs if place not in fused and place[1] not in ENDS}
    assert missing == {place for place in pairs if lost(place) and place[1] not in ENDS}
    loras.check_fused(found, fused, pairs if alphas else loras.without_alphas(pairs))


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}])
def test_pefts_configuration(more: dict[str, Any], tmp_path: Path) -> None:
    """Ranks and alphas differ, by patterns; the judge is PEFT, through diffusers."""
    pairs = some(some(loras.random_pairs(SD.modules, seed=3)))
    file = loras.peft(pairs, config=loras.peft_config(pairs, **more))
    path = write(tmp_path / "lora.safetensors", file)
    found, fused = deltas(read_lora(path, SD.targets)), loras.fused(SD.build, path)
    assert found.keys() == fused.keys() == pairs.keys()
    loras.check_fused(found, fused, pairs, loras.rank_stabilised if more else None)


def test_pefts_own_folder(tmp_path: Path) -> None:
    """The alpha lies in a file beside; PEFT itself saves it."""
    import peft

    pipe = loras.sd_pipeline()
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["to_q", "conv1"], alpha_pattern={"conv1": 7}
    )
    model: Any = models.randomize(peft.get_peft_model(pipe.unet, config), 4)
    model.save_pretrained(tmp_path)
    before = {("unet", n): m.weight.detach().clone() for n, m in _based(model).items()}
    model.merge_adapter()
    lora = read_lora(tmp_path / "adapter_model.safetensors", SD.targets)
    found = deltas(lora)
    after = {("unet", n): m.weight for n, m in _based(model).items()}
    assert found.keys() == after.keys()
    for pair in lora.values():
        place = pair.module.component, pair.module.path
        down, up = (torch.tensor(t.array()) for t in (pair.down, pair.up))
        down = down.movedim(-1, 1)  # PyTorch's layout; the sum with the weight rounds too
        allowed = 2 * Pair(down, up, pair.alpha).rounding() + 2.0**-24 * after[place].abs()
        change = (after[place].double() - before[place]).detach()
        assert (np.abs(found[place] - change.numpy()) <= allowed.detach().numpy()).all(), place


def test_what_diffusers_saves(tmp_path: Path) -> None:
    """By its own writer, with the configuration in the metadata, as its training scripts do."""
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict

    pairs = some(some(loras.random_pairs(SD.modules, seed=11)))
    file = loras.peft(pairs, config=loras.peft_config(pairs))
    pipe = loras.sd_pipeline()
    pipe.load_lora_weights(str(write(tmp_path / "a.safetensors", file)), adapter_name="x")
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    for part in parts.values():
        part.peft_config["default"] = part.peft_config["x"]
    pipe.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet, adapter_name="x"),
        text_encoder_lora_layers=get_peft_model_state_dict(pipe.text_encoder, adapter_name="x"),
        **_collate_lora_metadata(parts),
    )
    check_formula(read_lora(tmp_path / "pytorch_lora_weights.safetensors", SD.targets), pairs)


def _based(model: Any) -> dict[str, torch.nn.Module]:
    return {
        name.removeprefix("base_model.model.").removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if name.endswith(".base_layer")
    }


def true_spec(**config: Any) -> UNetSpec:
    return UNetSpec.from_config({"layers_per_block": 2} | config)


def true_text(width: int, layers: int, projected: bool = False) -> ClipTextSpec:
    config: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": layers}
    config |= {"num_attention_heads": width // 64, "intermediate_size": 4 * width}
    config |= {"projection_dim": width, "hidden_act": "gelu"}
    if projected:
        config["architectures"] = ["CLIPTextModelWithProjection"]
    return ClipTextSpec.from_config(config)


TRUE = {
    "SD1.5": (
        LoraTargets(
            unet=true_spec(
                block_out_channels=(320, 640, 1280, 1280),
                down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
                up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
                cross_attention_dim=768,
                attention_head_dim=8,
            ),
            text_encoder=true_text(768, 12),
        ),
        {"unet": 282, "text_encoder": 72},
    ),
    "SDXL": (
        LoraTargets(
            unet=true_spec(
                block_out_channels=(320, 640, 1280),
                down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
                up_block_types=(*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
                cross_attention_dim=2048,
                attention_head_dim=(5, 10, 20),
                transformer_layers_per_block=(1, 2, 10),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            ),
            text_encoder=true_text(768, 12),
            text_encoder_2=true_text(1280, 32, projected=True),
        ),
        {"unet": 794, "text_encoder": 72, "text_encoder_2": 193},
    ),
}


@pytest.mark.parametrize("base", TRUE)
def test_names_at_true_sizes(base: str) -> None:
    """Every layer has its own names, and no name stands for two layers."""
    targets, counts = TRUE[base]
    modules = list(targets.modules())
    assert {c: sum(m.component == c for m in modules) for c in counts} == counts
    table = lora_names.stems(targets)  # raises where two layers share a name
    paths = [m.path for m in modules if m.component == "unet"]
    here = {f"lora_unet_{path.replace('.', '_')}" for path in paths}
    there = {f"lora_unet_{name.replace('.', '_')}" for name in ldm.unet_names(paths, targets.unet)}
    assert len(here) == len(there) == counts["unet"]
    assert not here & there
    for names in (here, there):
        assert {table[name].path for name in names} == set(paths)
    assert len(lora_names.converted_stems(targets)) == sum(counts.values())


@pytest.mark.parametrize(
    ("component", "module"),
    [
        ("unet", lambda: UNet(SD.targets.unet)),
        ("text_encoder", lambda: TextEncoder(SD.targets.text_encoder)),
    ],
)
def test_deltas_fit_the_mlx_modules(
    component: str, module: Callable[[], nn.Module], tmp_path: Path
) -> None:
    """Every linear layer and convolution is a target, under its own name and in its own layout."""
    pairs = loras.random_pairs(SD.modules, seed=5)
    lora = read_lora(write(tmp_path / "a.safetensors", loras.kohya(pairs, "sd")), SD.targets)
    own = {f"{p}.weight": delta(pair).shape for (c, p), pair in lora.items() if c == component}
    parameters = tree_flatten(module().parameters())
    assert own == {
        name: array.shape
        for name, array in parameters
        if array.ndim > 1 and "embedding.weight" not in name
    }
    for pair in lora.values():
        turned = pair.module.layout.to_target(delta(pair, "diffusers"))
        assert np.array_equal(delta(pair), turned)


@pytest.mark.parametrize("flat", [False, True])
def test_matrices_for_pointwise_convolutions_and_the_reverse(flat: bool, tmp_path: Path) -> None:
    """SD1.x projects with 1×1 convolutions, SD2 and SDXL with matrices."""
    base = SD if flat else SDXL
    words = ("proj_in", "proj_out", "to_q", "conv_shortcut")
    pairs = loras.only(unet_part(loras.random_pairs(base.modules, seed=6)), words)
    file = loras.kohya(pairs, base.name)
    changed = {
        name: (t[:, :, 0, 0] if flat and t.ndim == 4 else t)
        if flat
        else (t[:, :, None, None] if t.ndim == 2 else t)
        for name, t in file.tensors.items()
    }
    assert any(changed[name].ndim != t.ndim for name, t in file.tensors.items())
    check_formula(read_lora(write(tmp_path / "a.safetensors", File(changed)), base.targets), pairs)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_alphas_of_any_type(kind: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    pairs = some(loras.random_pairs(SD.modules, seed=7))
    pairs = {
        place: Pair(p.down, p.up, float(1 + n % 9)) for n, (place, p) in enumerate(pairs.items())
    }
    tensors = {
        name: t.to(kind).reshape(shape) if name.endswith(".alpha") else t
        for name, t in loras.kohya(pairs, "sd").tensors.items()
    }
    check_formula(read_lora(write(tmp_path / "a.safetensors", File(tensors)), SD.targets), pairs)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision(kind: torch.dtype, tmp_path: Path) -> None:
    pairs = loras.random_pairs(SD.modules, seed=8, dtype=kind)
    path = write(tmp_path / "a.safetensors", loras.kohya(pairs, "sd"))
    check_formula(read_lora(path, SD.targets), pairs)


@pytest.mark.matrix
@pytest.mark.parametrize("legacy", [False, True])
def test_pickled(legacy: bool, tmp_path: Path) -> None:
    pairs = some(loras.random_pairs(SD.modules, seed=9))
    path = tmp_path / "pytorch_lora_weights.bin"
    torch.save(loras.kohya(pairs, "sd").tensors, path, _use_new_zipfile_serialization=not legacy)
    check_formula(read_lora(path, SD.targets), pairs)
    converted = convert_lora(path, tmp_path / "a.safetensors", SD.targets)
    check_formula(read_lora(converted, SD.targets), pairs)


SOME = some(loras.random_pairs(SD.modules, seed=10))


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), spelling=st.sampled_from(sorted(SPELLINGS)))
def test_any_part_of_a_model_comes_back(data: st.DataObject, spelling: str, tmp_path: Path) -> None:
    """Through a spelling, MLX's form, diffusers' form, and MLX's again: the same bits."""
    part, alphas, spell = SPELLINGS[spelling]
    places = sorted(part({place: SOME[place] for place in SOME}))
    chosen = data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=6, unique=True))
    modules = {place: SD.modules[place] for place in chosen}
    ranks = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6)))
    pairs = loras.random_pairs(modules, seed=data.draw(st.integers(0, 9)), ranks=ranks)
    strength = st.floats(-16, 16, width=32) if alphas else st.none()
    pairs = {place: Pair(p.down, p.up, data.draw(strength)) for place, p in pairs.items()}
    for old in tmp_path.iterdir():
        old.unlink()
    files = [write(tmp_path / "0.safetensors", spell(pairs, SD))]
    for number, layout in enumerate(("mlx", "diffusers", "mlx"), 1):
        target = tmp_path / f"{number}.safetensors"
        files.append(convert_lora(files[-1], target, SD.targets, layout=layout))
    first, *others = (read_lora(file, SD.targets) for file in files)
    assert {place: v.shape for place, v in deltas(first).items()} == {
        place: tuple(pair.delta.shape) for place, pair in pairs.items()
    }
    for other in others:
        assert other.keys() == first.keys()
        for key, pair in first.items():
            assert other[key].scale == pair.scale
            assert np.array_equal(delta(other[key]), delta(pair))
