"""`ipa-mlx convert` takes a model, a component, an adapter or a LoRA, and brings it back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPVisionModelWithProjection
from typer.testing import CliRunner

from ipa.app.cli import app
from ipa.errors import CheckpointError
from ipa_convert.containers.atomic import take_new_name
from oracle import controlnets, models, single_files

CLASSES = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "image_encoder": CLIPVisionModelWithProjection,
}


def convert(*words: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["convert", *map(str, words), "--verify", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*words: str | Path) -> str:
    done = CliRunner().invoke(app, ["convert", *map(str, words)])
    assert done.exit_code in {2, 3}, done.output
    return done.stderr


def tensors(path: Path) -> dict[str, torch.Tensor]:
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return {k: v for file in files for k, v in safetensors.torch.load_file(file).items()}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[k], expected[k]) for k in found
    )


@pytest.mark.parametrize("component", CLASSES)
def test_a_component_there_and_back(tiny: Path, tmp_path: Path, component: str) -> None:
    there = convert(tiny / component, tmp_path / "mlx")
    assert there["kind"] == component and there["verified"] > 10
    back = convert(tmp_path / "mlx", tmp_path / "back", "--to", "diffusers")
    assert back["verified"] == there["verified"]
    module = CLASSES[component].from_pretrained(tmp_path / "back")
    original = CLASSES[component].from_pretrained(tiny / component)
    assert same(module.state_dict(), original.state_dict())


def test_components_that_are_one_file(tiny: Path, tmp_path: Path) -> None:
    """In the original names, with the prefixes of a single file."""
    files = {
        "vae": single_files.vae_tensors(tiny),
        "unet": single_files.unet_tensors(tiny),
        "text_encoder": single_files.text_tensors(tiny, ""),
    }
    for component, contents in files.items():
        file = single_files.write(tmp_path / f"{component}.pt", contents, "torch zip")
        target = tmp_path / component
        found = convert(file, target, "--config", tiny / component, "--to", "diffusers")
        assert found["kind"] == component
        module = CLASSES[component].from_pretrained(target)
        original = CLASSES[component].from_pretrained(tiny / component)
        assert same(module.state_dict(), original.state_dict())


def test_a_controlnet(tmp_path: Path) -> None:
    source = tmp_path / "source"
    module = models.randomize(ControlNetModel(**controlnets.CONFIGS["SDXL"]), seed=5)
    module.save_pretrained(source)
    assert convert(source, tmp_path / "mlx")["kind"] == "controlnet"
    convert(tmp_path / "mlx", tmp_path / "back", "--to", "diffusers")
    back = ControlNetModel.from_pretrained(tmp_path / "back")
    assert same(back.state_dict(), module.state_dict())


def test_a_single_file(tmp_path: Path) -> None:
    folder = models.build_folder(tmp_path / "model", models.Tiny(unet=dict(models.FOUR_LEVELS)))
    configs = single_files.configs(folder, tmp_path / "configs")
    file = single_files.write(tmp_path / "m.ckpt", single_files.sd15(folder), "lightning")
    found = convert(file, tmp_path / "mlx", "--config", configs)
    assert found["kind"] == "model"
    (note,) = found["notes"]
    assert "6 tensors" in note and "alphas_cumprod" in note and "model_ema.* (2)" in note
    words = ["-m", tmp_path / "mlx", "-n", "1", "-o", tmp_path / "x.png", "--backend", "mlx"]
    assert CliRunner().invoke(app, ["generate", *map(str, words)]).exit_code == 0


@pytest.mark.parametrize("name", ["linear", "plus", "full"])
def test_an_adapter_there_and_back(tiny: Path, tmp_path: Path, name: str) -> None:
    source, there, back = tiny / f"{name}.safetensors", "there.safetensors", "back.safetensors"
    assert "unknown base model" in refused(source, tmp_path / there)
    found = convert(source, tmp_path / there, "--config", tiny)
    assert (found["kind"], found["target"]) == ("adapter", str(tmp_path / there))
    convert(tmp_path / there, tmp_path / back, "--config", tiny, "--to", "diffusers")
    assert same(tensors(tmp_path / back), tensors(source))


def test_a_lora_there_and_back(tmp_path: Path) -> None:
    """Of a few layers of Stable Diffusion 1.5, at its own widths."""
    draw = torch.Generator().manual_seed(3)
    stems = {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (768, 320),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2": (5120, 1280),
        "lora_te_text_model_encoder_layers_3_self_attn_q_proj": (768, 768),
    }
    contents: dict[str, torch.Tensor] = {}
    for stem, (inputs, outputs) in stems.items():
        contents |= {
            f"{stem}.lora_down.weight": torch.randn(4, inputs, generator=draw),
            f"{stem}.lora_up.weight": torch.randn(outputs, 4, generator=draw),
            f"{stem}.alpha": torch.tensor(2.0),
        }
    safetensors.torch.save_file(contents, tmp_path / "source.safetensors")
    found = convert(tmp_path / "source.safetensors", tmp_path / "mlx.safetensors")
    assert (found["kind"], found["verified"]) == ("lora", 6)
    target = tmp_path / "back.safetensors"
    convert(tmp_path / "mlx.safetensors", target, "--to", "diffusers", "--base", "sd15")
    halves = {k: v for k, v in contents.items() if not k.endswith("alpha")}
    back = [t for t in tensors(target).values() if t.ndim == 2]
    assert len(back) == len(halves)
    assert all(any(torch.equal(t, half) for half in halves.values()) for t in back)


def test_what_does_not_go_together(tiny: Path, tmp_path: Path) -> None:
    adapter, out = tiny / "linear.safetensors", tmp_path / "out"
    vae = single_files.write(tmp_path / "v.pt", single_files.vae_tensors(tiny), "torch zip")
    cases = [
        ((adapter, out, "--config", tiny), "ends in .safetensors"),
        ((adapter, tmp_path / "o.safetensors", "--ema"), "--ema cannot be used"),
        ((adapter, tmp_path / "o.safetensors", "--quantize", "8"), "--quantize cannot be used"),
        ((tiny, out, "--kind", "plus"), "--kind cannot be used"),
        ((tiny, out, "--base", "sd15"), "--base cannot be used"),
        ((tiny, out, "--ema"), "for single files"),
        ((vae, out), "which base model is this vae of?"),
        ((vae, out, "--base", "sd3"), "unknown base model"),
        ((vae, out, "--base", "sd15"), "does not fit this VAE"),
        ((tiny / "scheduler", out), "does not exist"),
    ]
    for words, part in cases:
        assert part in refused(*words), words
    assert {p.name for p in tmp_path.iterdir()} == {"v.pt"}


def test_two_at_once_to_one_target(tmp_path: Path) -> None:
    """Real processes that both found the name free: the one that is slower says what it is."""
    target = tmp_path / "out"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ipa_convert.writing import folder\n"
        "from ipa.app.cli import app\n"
        "checked = folder.require_new\n"
        "def found_free(target):\n"
        "    checked(target)\n"
        "    print('free', flush=True)\n"
        "    sys.stdin.readline()\n"
        "folder.require_new = found_free\n"
        "app(sys.argv[1:])\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, "convert", "demo", str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "free\n"
    told = [process.communicate("\n")[1] for process in started]
    assert [process.returncode for process in started] == [0, 3], told
    assert f"{target} exists already; remedy: choose another name" in told[1]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_whose_name_was_taken_meanwhile(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    take_new_name(tmp_path / "first", tmp_path / "out")
    with pytest.raises(CheckpointError, match="exists already"):
        take_new_name(tmp_path / "second", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "first"
