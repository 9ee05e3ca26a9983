"""Components that are files of torch.save: read by torch's restricted reader, as strictly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from ipa.errors import CheckpointError
from ipa_torch.files.weights import load_component
from oracle import models, pickles

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


def load(component: str, folder: Path, variant: str | None = None) -> torch.nn.Module:
    return load_component(CLASSES[component], component, folder, torch.float32, variant)


def pickled(component: str, tiny: Path, tmp_path: Path, **options: bool) -> tuple[Path, Path]:
    """A component's folder, and its only file of weights."""
    folder = Path(shutil.copytree(tiny / component, tmp_path / component))
    models.pickle_weights(folder, **options)
    (file,) = folder.glob("*.bin")
    return folder, file


@pytest.mark.parametrize("component", CLASSES)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_same_weights(component: str, zipped: bool, tiny: Path, tmp_path: Path) -> None:
    folder, file = pickled(component, tiny, tmp_path, zipped=zipped)
    expected = load(component, tiny / component).state_dict()
    tagged = file.with_suffix(".fp16.bin")
    for variant in (None, "fp16"):
        found = load(component, folder, variant).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        if variant is None:
            file.rename(tagged)


def test_shards(tiny: Path, tmp_path: Path) -> None:
    for component in ("unet", "image_encoder"):
        folder, file = pickled(component, tiny, tmp_path)
        tensors = torch.load(file, weights_only=True)
        shards = [f"{file.stem}-0000{n}-of-00002.bin" for n in (1, 2)]
        weight_map = {name: shards[n % 2] for n, name in enumerate(sorted(tensors))}
        for shard in shards:
            part = {k: v for k, v in tensors.items() if weight_map[k] == shard}
            torch.save(part, folder / shard)
        file.unlink()
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{file.name}.index.json").write_text(json.dumps(index))
        found = load(component, folder).state_dict()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_safetensors_are_preferred(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny / "vae", tmp_path / "vae"))
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"nothing that could be read")
    expected = load_file(folder / "diffusion_pytorch_model.safetensors")
    found = load("vae", folder).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def changed(change: Callable[[dict[str, torch.Tensor], str], Any]) -> Callable[[Path, str], None]:
    def apply(path: Path, victim: str) -> None:
        tensors = torch.load(path, weights_only=True)
        change(tensors, victim)
        torch.save(tensors, path)

    return apply


def poisoned(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor.view(-1)[tensor.numel() // 2] = value
    return tensor


def alien(path: Path, _: str) -> None:
    path.write_bytes(pickles.archive(pickles.START + pickles.name("os", "system") + b"."))


def safe(path: Path, _: str) -> None:
    save_file(torch.load(path, weights_only=True), path)


# Damage, and what the message must say; {victim} is the tensor's name.
DAMAGE: dict[str, tuple[Callable[[Path, str], Any], str]] = {
    "missing": (changed(lambda t, v: t.pop(v)), "{victim}"),
    "spare": (changed(lambda t, _: t.update(spare=torch.ones(2))), "spare"),
    "misshapen": (changed(lambda t, v: t.update({v: torch.cat([t[v], t[v]])})), "{victim}"),
    "integers": (
        changed(lambda t, v: t.update({v: t[v].int()})),
        "{victim} is no floating-point weight; found: torch.int32",
    ),
    "NaN": (
        changed(lambda t, v: t.update({v: poisoned(t[v], torch.nan)})),
        "{victim} holds values that are not finite; found: NaN",
    ),
    "infinity": (
        changed(lambda t, v: t.update({v: poisoned(t[v], torch.inf)})),
        "{victim} holds values",
    ),
    "no tensor": (changed(lambda t, _: t.update(note=1)), "holds more than weights"),
    "a nested dict": (
        changed(lambda t, _: t.update(more={"x": torch.ones(2)})),
        "1 unexpected (more)",
    ),
    "cut off": (lambda p, _: p.write_bytes(p.read_bytes()[:-40]), "is damaged"),
    "a program": (alien, "more than weights"),
    "safetensors in disguise": (safe, "found: a safetensors file"),
    "pointer": (
        lambda p, _: p.write_text("version https://git-lfs.github.com/spec/v1\noid"),
        "Git LFS pointer",
    ),
    "empty": (lambda p, _: p.write_bytes(b""), "an empty file"),
}


@pytest.mark.parametrize("component", CLASSES)
@pytest.mark.parametrize("name", DAMAGE)
def test_damage(name: str, component: str, tiny: Path, tmp_path: Path) -> None:
    folder, file = pickled(component, tiny, tmp_path)
    damage, words = DAMAGE[name]
    damage(file, VICTIMS[component])
    with pytest.raises(CheckpointError) as caught:
        load(component, folder)
    message = str(caught.value)
    assert words.format(victim=VICTIMS[component]) in message
    assert component in message and "remedy" in message


def test_a_pickle_in_disguise(tiny: Path, tmp_path: Path) -> None:
    """The libraries go by the ending; the message goes by what the file is."""
    folder, file = pickled("vae", tiny, tmp_path)
    file.rename(file.with_suffix(".safetensors"))
    with pytest.raises(CheckpointError, match=r"vae.*not what its ending says; found: a torch zip"):
        load("vae", folder)
