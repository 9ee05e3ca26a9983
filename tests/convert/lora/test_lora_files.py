"""Written LoRA files, files that are refused, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from ipa.errors import CheckpointError, RequestError
from ipa.model.clip import ClipTextSpec
from ipa.model.ignoring import Ignore
from ipa.model.unet import UNetSpec
from ipa_convert import LoraTargets, convert_lora, inspect, read_lora, verify_lora
from ipa_convert.lora.pairs import delta
from oracle import loras, models
from oracle.containers import array_bits, bits, write_sparse
from oracle.loras import File, Pair, Place

SD = LoraTargets(
    unet=UNetSpec.from_config(loras.SD_UNET), text_encoder=ClipTextSpec.from_config(models.TEXT)
)
SDXL = LoraTargets(
    unet=UNetSpec.from_config(loras.SDXL_UNET),
    text_encoder=ClipTextSpec.from_config(loras.SDXL_TEXT),
    text_encoder_2=ClipTextSpec.from_config(loras.SDXL_TEXT_2),
)
BASES: dict[str, tuple[LoraTargets, Callable[[], Any]]] = {
    "sd": (SD, loras.sd_pipeline),
    "sdxl": (SDXL, loras.sdxl_pipeline),
}
Tensors = dict[str, torch.Tensor]


def layers(base: str) -> dict[Place, torch.nn.Module]:
    """All of the text encoders and every eleventh of the UNet, SDXL's additions among them."""
    every = loras.layers(BASES[base][1]())
    unet = [place for place in every if place[0] == "unet"]
    kept = {*unet[::11], *(place for place in unet if "add_embedding" in place[1])}
    return {place: m for place, m in every.items() if place[0] != "unet" or place in kept}


def write(path: Path, file: File) -> Path:
    tensors = {name: tensor.contiguous() for name, tensor in file.tensors.items()}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt", **(file.metadata or {})})
    return path


def metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, "pt") as file:
        return dict(file.metadata())


@pytest.mark.matrix
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("alphas", [False, True])
def test_diffusers_loads_what_is_converted_back(base: str, alphas: bool, tmp_path: Path) -> None:
    """Ranks and alphas differ from layer to layer; every layer arrives."""
    targets, build = BASES[base]
    pairs = loras.random_pairs(layers(base), seed=20, alphas=alphas)
    kohya = write(tmp_path / "kohya.safetensors", loras.kohya(pairs, base))
    mlx = convert_lora(kohya, tmp_path / "mlx.safetensors", targets)
    back = convert_lora(mlx, tmp_path / "back.safetensors", targets, layout="diffusers")
    fused = loras.fused(build, back)
    assert fused.keys() == pairs.keys()
    for place, weight in fused.items():
        # 3.9e-7 measured, where alphas go to 8: diffusers multiplies in float32
        assert np.abs(weight.numpy() - pairs[place].delta.numpy()).max() <= 6e-7, place


def test_converted_files(tmp_path: Path) -> None:
    """MLX's names and axes, every tensor's own type, the same bits, and exact alphas."""
    places = layers("sd")
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    parts = [loras.random_pairs(places, seed=21, dtype=kind) for kind in kinds]
    pairs = {place: parts[number % 3][place] for number, place in enumerate(places)}
    source = write(tmp_path / "a.safetensors", loras.kohya(pairs, "sd"))
    path = convert_lora(source, tmp_path / "b.safetensors", SD)
    assert metadata(path) == {
        "format": "mlx",
        "ipa_layout": "1",
        "kind": "lora",
        "base": "context width 40",
    }
    found = safetensors.torch.load_file(path)
    assert len(found) == 3 * len(pairs)
    for (component, target), pair in read_lora(source, SD).items():
        given = pairs[component, pair.module.path]
        down, up = given.down, given.up.flatten(1)
        if down.ndim == 4:
            spatial = down.shape[2:] != (1, 1)
            down = down.permute(0, 2, 3, 1) if spatial else down.flatten(1)
        stem = f"{component}.{target}"
        for name, tensor in (("lora_down.weight", down), ("lora_up.weight", up)):
            stored = found[f"{stem}.{name}"]
            assert stored.dtype == tensor.dtype
            assert torch.equal(stored, tensor)
        assert found[f"{stem}.alpha"].dtype == torch.float32
        assert found[f"{stem}.alpha"].item() == given.alpha


def test_the_way_back_gives_the_same_bits(tmp_path: Path) -> None:
    pairs = loras.without_alphas(loras.random_pairs(layers("sd"), seed=22, dtype=torch.bfloat16))
    original = loras.peft(pairs)
    path = write(tmp_path / "0.safetensors", original)
    mlx = convert_lora(path, tmp_path / "1.safetensors", SD)
    back = convert_lora(mlx, tmp_path / "2.safetensors", SD, layout="diffusers")
    found = safetensors.torch.load_file(back)
    assert found.keys() == original.tensors.keys()
    assert all(np.array_equal(bits(found[n]), bits(t)) for n, t in original.tensors.items())
    assert metadata(back) == {"format": "pt"}


def test_an_alpha_of_double_precision_is_kept(tmp_path: Path) -> None:
    tensors = sound() | {f"{QUERY}.alpha": torch.tensor(0.1, dtype=torch.float64)}
    path = convert_lora(write(tmp_path / "a.safetensors", File(tensors)), tmp_path / "b", SD)
    assert [pair.alpha for pair in read_lora(path, SD).values()] == [0.1]


def test_another_precision(tmp_path: Path) -> None:
    pairs = loras.random_pairs(layers("sd"), seed=23)
    path = write(tmp_path / "a.safetensors", loras.kohya(pairs, "sd"))
    half = convert_lora(path, tmp_path / "b.safetensors", SD, dtype="float16")
    given = {(c, p): pair.down.half() for (c, p), pair in pairs.items()}
    for pair in read_lora(half, SD).values():
        found = pair.down.original()
        expected = given[pair.module.component, pair.module.path]
        assert np.array_equal(array_bits(found), bits(expected))
    huge = sound() | {f"{QUERY}.lora_up.weight": torch.full((16, 2), 1e6)}
    path = write(tmp_path / "c.safetensors", File(huge))
    with pytest.raises(CheckpointError, match="does not fit float16"):
        convert_lora(path, tmp_path / "d.safetensors", SD, dtype="float16")
    assert not (tmp_path / "d.safetensors").exists()
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", File(sound()))
    with pytest.raises(CheckpointError, match="exists already"):
        convert_lora(path, path, SD)


QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
KEY_2 = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
DOTTED = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
TEXT_2 = "lora_te2_text_model_encoder_layers_0_mlp_fc1"


def pair(stem: str, inputs: int = 16, outputs: int = 16, rank: int = 2) -> Tensors:
    return {
        f"{stem}.lora_down.weight": torch.ones(rank, inputs),
        f"{stem}.lora_up.weight": torch.ones(outputs, rank),
    }


def sound() -> Tensors:
    return pair(QUERY)


# (tensors, what must be said to be found)
WRONG: dict[str, tuple[Tensors, str]] = {
    "an unknown key": (
        sound() | {"stray": torch.ones(1)},
        "1 without a place in this model: stray",
    ),
    "an unknown layer": (
        sound() | pair("lora_unet_down_blocks_9_resnets_0_conv1"),
        "2 without a place in this model: lora_unet_down_blocks_9_resnets_0_conv1.lora_down",
    ),
    "a bias": (
        {**sound(), f"{QUERY}.lora_up.bias": torch.ones(16)},
        f"1 without a place in this model: {QUERY}.lora_up.bias",
    ),
    "half a pair": (
        {**sound(), f"{KEY_2}.lora_down.weight": torch.ones(2, 40)},
        f"1 without the other half: {KEY_2}.lora_down.weight",
    ),
    "the other half": (
        {**sound(), f"{KEY_2}.lora_up.weight": torch.ones(16, 2)},
        f"1 without the other half: {KEY_2}.lora_up.weight",
    ),
    "an alpha alone": (
        {**sound(), f"{KEY_2}.alpha": torch.ones(())},
        f"1 without a pair: {KEY_2}.alpha",
    ),
    "another width": (pair(QUERY, inputs=17), "(F32 (2, 17)), needed (2, 16)"),
    "another height": (pair(QUERY, outputs=17), "(F32 (17, 2)), needed (16, 2)"),
    "two ranks": (
        {**sound(), f"{QUERY}.lora_up.weight": torch.ones(16, 3)},
        "1 of another shape: " + QUERY + ".lora_up.weight (F32 (16, 3)), needed (16, 2)",
    ),
    "rank zero": (pair(QUERY, rank=0), "of another shape"),
    "a number": ({**sound(), f"{QUERY}.lora_down.weight": torch.ones(())}, "of another shape"),
    "a kernel turned": (
        {
            f"{CONV}.lora_down.weight": torch.ones(2, 3, 3, 16),
            f"{CONV}.lora_up.weight": torch.ones(16, 2, 1, 1),
        },
        "(F32 (2, 3, 3, 16)), needed (2, 16, 3, 3)",
    ),
    "a kernel on a matrix": (
        {**sound(), f"{QUERY}.lora_down.weight": torch.ones(2, 16, 3, 3)},
        "needed (2, 16)",
    ),
    "eight bits": (
        {n: t.to(torch.float8_e4m3fn) for n, t in sound().items()},
        "2 of an unsupported type: " + QUERY,
    ),
    "half of a second spelling": (
        {**sound(), f"{DOTTED}.lora_A.weight": torch.ones(2, 16)},
        f"1 without the other half: {DOTTED}.lora_A.weight",
    ),
    "two adapters": (
        {f"{DOTTED}.lora_{x}.{n}.weight": torch.ones(2, 2) for n in ("a", "b") for x in "AB"},
        "2 given twice: ",
    ),
    "an infinite alpha": (
        {**sound(), f"{QUERY}.alpha": torch.tensor(torch.inf)},
        f"{QUERY}.alpha holds values that are not finite",
    ),
    "a list of alphas": (
        {**sound(), f"{QUERY}.alpha": torch.ones(2)},
        f"1 that should be one finite number: {QUERY}.alpha (F32 (2,))",
    ),
    "a second text encoder": (
        sound() | pair(TEXT_2, 40, 72),
        f"2 of a text encoder that this model has not: {TEXT_2}.lora_down.weight",
    ),
    "another base": (
        pair(KEY_2, inputs=2048),
        "one for SDXL, the model is context width 40",
    ),
    "LoHa": (
        sound() | {f"{KEY_2}.hada_w1_a": torch.ones(1)},
        f"LoHa; 1 keys that no LoRA has: {KEY_2}",
    ),
    "LoKr": (sound() | {f"{KEY_2}.lokr_w1_a": torch.ones(1)}, "LoKr; "),
    "OFT": (sound() | {f"{KEY_2}.oft_blocks": torch.ones(1)}, "OFT; "),
    "DoRA": (
        sound() | {f"{QUERY}.dora_scale": torch.ones(1)},
        f"DoRA; 1 keys that no LoRA has: {QUERY}",
    ),
    "PEFT's DoRA": (sound() | {f"{DOTTED}.lora_magnitude_vector": torch.ones(1)}, "DoRA; "),
    "Tucker": (sound() | {f"{CONV}.lora_mid.weight": torch.ones(1)}, "Tucker"),
    "a difference": (sound() | {f"{CONV}.diff_b": torch.ones(1)}, "full-difference network; 1 "),
    "a UNet": (
        {"conv_in.weight": torch.ones(1)},
        "1 without a place in this model: conv_in.weight",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(case: str, tmp_path: Path) -> None:
    tensors, found = WRONG[case]
    path = write(tmp_path / "a.safetensors", File(tensors))
    for refuse in (read_lora, lambda p, t: convert_lora(p, tmp_path / "b.safetensors", t)):
        with pytest.raises(CheckpointError) as caught:
            refuse(path, SD)
        assert found in str(caught.value)
        assert caught.value.remedy
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    tensors = sound() | {
        "stray": torch.ones(1),
        f"{KEY_2}.alpha": torch.ones(()),
        f"{CONV}.lora_up.weight": torch.ones(16, 2, 1, 1),
    }
    with pytest.raises(CheckpointError) as caught:
        read_lora(write(tmp_path / "a.safetensors", File(tensors)), SD)
    for name in ("stray", f"{KEY_2}.alpha", f"{CONV}.lora_up.weight"):
        assert name in caught.value.found


def test_a_stray_tensor_is_left_out_by_name(tmp_path: Path) -> None:
    """Of a conversion too, which records it."""
    path = write(tmp_path / "a.safetensors", File(sound() | {"stray.more": torch.ones(1)}))
    target = convert_lora(path, tmp_path / "b.safetensors", SD, ignore=["stray.*"])
    assert verify_lora(path, target, SD, ignore=["stray.*"])
    assert not read_lora(target, SD).dropped
    with pytest.raises(RequestError, match="that the model needs, and no other"):
        read_lora(path, SD, ignore=Ignore.of(["stray.*", f"{QUERY}.*"]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    tensors = sound()
    tensors[f"{QUERY}.lora_down.weight"][1, 3] = value
    path = write(tmp_path / "a.safetensors", File(tensors))
    with pytest.raises(CheckpointError, match=f"{QUERY}.lora_down.weight holds values"):
        [delta(pair) for pair in read_lora(path, SD).values()]
    with pytest.raises(CheckpointError, match="not finite"):
        convert_lora(path, tmp_path / "b.safetensors", SD)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_product_that_overflows(tmp_path: Path) -> None:
    tensors = {name: torch.full_like(t, 3e30) for name, t in sound().items()}
    lora = read_lora(write(tmp_path / "a.safetensors", File(tensors)), SD)
    with pytest.raises(CheckpointError, match=r"the product for down_blocks\.0"):
        [delta(pair) for pair in lora.values()]


@pytest.mark.parametrize("targets", [SD, LoraTargets(unet=SD.unet)])
def test_a_part_is_left_out_only_on_request(targets: LoraTargets, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", File(sound() | pair(TEXT, 40, 72)))
    if targets.text_encoder is None:
        with pytest.raises(CheckpointError, match="leave out what `ignore` names"):
            read_lora(path, targets)
    lora = read_lora(path, targets, skip=("text_encoder",))
    assert [component for component, _ in lora] == ["unet"]
    assert sorted(lora.dropped) == [f"{TEXT}.lora_down.weight", f"{TEXT}.lora_up.weight"]
    with pytest.raises(CheckpointError, match="no pair of matrices"):
        read_lora(path, targets, skip=("text_encoder", "unet"))


# (configuration, what must be said)
CONFIGS: dict[str, tuple[Any, str]] = {
    "DoRA": ({"unet.use_dora": True, "unet.lora_alpha": 1}, "use_dora"),
    "another method": ({"unet.peft_type": "LOHA", "unet.lora_alpha": 1}, "peft_type"),
    "no alpha": ({"unet.r": 2}, "lora_alpha must be a number"),
    "an infinite alpha": ({"unet.lora_alpha": float("inf")}, "lora_alpha must be a number"),
    "another rank": ({"unet.lora_alpha": 1, "unet.r": 3}, "rank 3 for down_blocks.0"),
    "an expression": (
        {"unet.lora_alpha": 1, "unet.alpha_pattern": {".*to_q": 2}},
        "a regular expression",
    ),
    "a list of patterns": ({"unet.lora_alpha": 1, "unet.rank_pattern": [1]}, "must be an object"),
    "another network": ({"transformer.lora_alpha": 1}, "not for Stable Diffusion"),
    "a list": ([1], "must hold a JSON object"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations_that_are_refused(case: str, tmp_path: Path) -> None:
    config, said = CONFIGS[case]
    file = File(sound(), {"lora_adapter_metadata": json.dumps(config)})
    with pytest.raises(CheckpointError) as caught:
        read_lora(write(tmp_path / "a.safetensors", file), SD)
    assert said in str(caught.value)


def test_a_configuration_that_is_no_json(tmp_path: Path) -> None:
    file = File(sound(), {"lora_adapter_metadata": "{"})
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_lora(write(tmp_path / "a.safetensors", file), SD)


def test_two_statements_of_one_alpha(tmp_path: Path) -> None:
    config = json.dumps({"unet.lora_alpha": 4})
    file = File(sound() | {f"{QUERY}.alpha": torch.ones(())}, {"lora_adapter_metadata": config})
    with pytest.raises(CheckpointError, match=f"metadata state too: {QUERY}.alpha"):
        read_lora(write(tmp_path / "a.safetensors", file), SD)


ATTENTIONS = tuple(
    f"attn{n}_{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out_0")
)


def face_shapes(attentions: int, context: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(attentions // 2):
        for part in ATTENTIONS:
            stem = f"lora_unet_down_blocks_1_attentions_0_transformer_blocks_{number}_{part}"
            inputs = context if part in ("attn2_to_k", "attn2_to_v") else 64
            shapes |= {f"{stem}.lora_down.weight": (128, inputs)}
            shapes |= {f"{stem}.lora_up.weight": (64, 128)}
    return shapes


@pytest.mark.parametrize(
    ("attentions", "context", "base"), [(32, 768, "SD1.5"), (140, 2048, "SDXL")]
)
def test_facts_of_a_face_lora(attentions: int, context: int, base: str, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "a.safetensors", face_shapes(attentions, context), "F16")
    found = inspect(path)
    assert (found.family, found.variant, found.base) == ("LoRA", "kohya", base)
    said = "; ".join(found.remarks)
    assert f"{4 * attentions} layers of unet; rank 128; no alpha" in said
    assert "FaceID" in said
    assert "not supported" not in said


@pytest.mark.parametrize(
    ("file", "variant", "base", "said"),
    [
        (
            lambda p: loras.kohya(p, "sdxl"),
            "kohya",
            "context width 44",
            "layers of text_encoder, 13 layers of text_encoder_2",
        ),
        (
            lambda p: loras.kohya(p, "sdxl"),
            "kohya",
            "context width 44",
            "rank 1 to 5; alpha 0.5 to 8",
        ),
        (lambda p: loras.peft(p), "PEFT", "context width 44", "no alpha"),
        (
            lambda p: loras.peft(p, config=loras.peft_config(p)),
            "PEFT",
            "context width 44",
            "alpha 7",
        ),
        (lambda p: loras.middle(p), "diffusers", "context width 44", "rank 1 to 5"),
    ],
)
def test_facts(
    file: Callable[[dict[Place, Pair]], File], variant: str, base: str, said: str, tmp_path: Path
) -> None:
    pairs = loras.random_pairs(layers("sdxl"), seed=24)
    path = write(tmp_path / "a.safetensors", file(pairs))
    found = inspect(path)
    assert (found.family, found.variant, found.base) == ("LoRA", variant, base)
    assert said in "; ".join(found.remarks)
    assert "FaceID" not in "; ".join(found.remarks)


def test_facts_of_a_converted_file(tmp_path: Path) -> None:
    pairs = loras.random_pairs(layers("sd"), seed=25)
    path = write(tmp_path / "a.safetensors", loras.kohya(pairs, "sd"))
    found = inspect(convert_lora(path, tmp_path / "b.safetensors", SD))
    assert (found.family, found.variant, found.base) == ("LoRA", "MLX", "context width 40")
    assert found.converted
