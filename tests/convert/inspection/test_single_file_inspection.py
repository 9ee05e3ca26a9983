"""`inspect` of whole models in one file, at the true shapes of public ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ipa_convert import Inspection, inspect, kind_of, recognise
from oracle import true_shapes
from oracle.containers import write_sparse
from oracle.true_shapes import Shapes

UNET = "model.diffusion_model."
WHOLE = {  # UNet, VAE and text encoders: parameters, and bytes in float16
    "sd15": ("SD1.5", 859_520_964 + 83_653_863 + 123_060_480, 3),
    "sd2": ("SD2", 865_910_724 + 83_653_863, 3),
    "sdxl": ("SDXL", 2_567_463_684 + 83_653_863 + 123_060_480 + 694_659_840, 4),
}


def look(folder: Path, shapes: Shapes, **options: bool) -> Inspection:
    """A file of these shapes that takes no room on disk."""
    return inspect(write_sparse(folder / "model.safetensors", shapes, "F16"), **options)


@pytest.mark.parametrize("base", WHOLE)
def test_a_whole_model(base: str, tmp_path: Path) -> None:
    name, parameters, parts = WHOLE[base]
    found = look(tmp_path, true_shapes.single_file(base))
    assert (found.family, found.variant, found.base) == (
        "Stable Diffusion single file",
        "text to image",
        name,
    )
    assert found.kind == "file" and len(found.parts) == parts
    if base != "sd2":  # whose last layer and projection are in the file, and not in the model
        assert found.parameters == parameters + (1 if base == "sdxl" else 0)  # a temperature
    kinds = {part.name: part.family for part in found.parts}
    assert kinds["unet"] == "Stable Diffusion UNet in the original naming"
    assert kinds["vae"] == "VAE in the original naming"
    assert kinds["text_encoder"] == "CLIP text encoder"
    assert {part.base for part in found.parts if part.name == "unet"} == {name}
    path = tmp_path / "model.safetensors"
    assert kind_of(path) == "model" and recognise(path).base == base


def without(prefix: str) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {k: v for k, v in shapes.items() if not k.startswith(prefix)}


def plus(**more: tuple[int, ...]) -> Callable[[Shapes], Shapes]:
    return lambda shapes: {**shapes, **more}


def averaged(shapes: Shapes) -> Shapes:
    twins = {n: s for n, s in shapes.items() if n.startswith(UNET)}
    names = {n: "model_ema." + n.removeprefix("model.").replace(".", "") for n in twins}
    return {**shapes, **{names[n]: shape for n, shape in twins.items()}}


def shallow(shapes: Shapes) -> Shapes:
    """As SSD-1B: fewer transformers in the middle blocks."""
    return {
        name: shape
        for name, shape in shapes.items()
        if not any(f"transformer_blocks.{n}." in name for n in range(4, 10))
    }


def wide(shapes: Shapes) -> Shapes:
    return {**shapes, f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3)}


# (base, what is done to the file, what has to be said)
ODD: dict[str, tuple[str, Callable[[Shapes], Shapes], str]] = {
    "nothing to tell": ("sd15", dict, "no marker of what it predicts"),
    "undecided": ("sd2", dict, "guessed from one norm"),
    "no VAE": ("sd15", without("first_stage_model."), "no VAE inside"),
    "no text": ("sdxl", without("conditioner.embedders.1."), "no second text encoder inside"),
    "twins": ("sd15", averaged, "the UNet twice"),
    "v": ("sdxl", plus(v_pred=(0,)), "marked as predicting v (v_pred)"),
    "zero": ("sdxl", plus(v_pred=(0,), ztsnr=(0,)), "no signal at all (ztsnr)"),
    "pruned": ("sdxl", shallow, "cross-attentions where SDXL has 70: pruned or distilled"),
    "playground": ("sdxl", plus(edm_mean=(4,), edm_std=(4,)), "it is Playground 2.5"),
    "more": (
        "sd15",
        plus(**{"model_sampling.a": (2,), "model_sampling.b": (2,), "stray": (2,)}),
        "beside its networks: model_sampling.* (2), stray",
    ),
    "lcm": ("sd15", plus(**{f"{UNET}time_embed.cond_proj.weight": (320, 256)}), "distilled UNet"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd(case: str, tmp_path: Path) -> None:
    base, change, said = ODD[case]
    found = look(tmp_path, change(true_shapes.single_file(base)))
    assert found.family == "Stable Diffusion single file"
    assert any(said in remark for remark in found.remarks), found.remarks


def test_inpainting(tmp_path: Path) -> None:
    assert look(tmp_path, wide(true_shapes.single_file("sd15"))).variant == "inpainting"
    recognised = recognise(tmp_path / "model.safetensors")
    assert recognised.changes == {"unet/config.json": {"in_channels": 9}}


@pytest.mark.parametrize(
    ("base", "markers", "given", "changes"),
    [
        ("sd15", {}, None, {}),
        ("sdxl", {"v_pred": (0,)}, None, {"prediction_type": "v_prediction"}),
        (
            "sdxl",
            {"v_pred": (0,), "ztsnr": (0,)},
            None,
            {
                "prediction_type": "v_prediction",
                "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing",
            },
        ),
        ("sd15", {}, "v_prediction", {"prediction_type": "v_prediction"}),
        ("sd2", {}, "epsilon", {}),
        (
            "sd2",
            {},
            "v_prediction",
            {"prediction_type": "v_prediction", "_class_name": "DDIMScheduler"},
        ),
    ],
)
def test_markers(
    base: str, markers: Shapes, given: str | None, changes: dict, tmp_path: Path
) -> None:
    shapes = {**true_shapes.single_file(base), **markers}
    path = write_sparse(tmp_path / "m.safetensors", shapes, "F16")
    found = recognise(path, prediction_type=given)
    assert found.changes.get("scheduler/scheduler_config.json", {}) == changes
    large = {"upcast_attention": True, "sample_size": 96}
    assert found.changes.get("unet/config.json", {}) == (
        large if (base, given) == ("sd2", "v_prediction") else {}
    )


def test_the_two_kinds_of_sd2(tmp_path: Path) -> None:
    """ComfyUI's rule: the spread of one norm, which v-prediction trained wide."""
    shapes = true_shapes.single_file("sd2")
    path = write_sparse(tmp_path / "m.safetensors", shapes, "F32")
    found = recognise(path)
    assert "predicts epsilon" in found.notes[0] and "0.000" in found.notes[0]
    norm = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    order = {norm: shapes[norm], **{n: s for n, s in shapes.items() if n != norm}}
    path = write_sparse(tmp_path / "v.safetensors", order, "F32")
    with path.open("r+b") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        file.write(b"\x00\x00\x80\x3f\x00\x00\x80\xbf" * 160)  # 1 and -1: a spread of 1
    found = recognise(path)
    assert "predicts v_prediction" in found.notes[0] and "1.000" in found.notes[0]
    assert found.changes["scheduler/scheduler_config.json"]["prediction_type"] == "v_prediction"
