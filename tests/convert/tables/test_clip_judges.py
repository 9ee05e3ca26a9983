"""CLIP's towers against other people's readers of single files, and against OpenCLIP's network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ipa.errors import CheckpointError
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa_convert.containers.checkpoint import open_file
from ipa_convert.tables import clip_text, clip_vision
from ipa_convert.tables.matching import convert
from ipa_convert.tables.rules import Rename
from ipa_convert.tables.spelling import Split, Turned
from ipa_convert.tables.table import Table
from ipa_mlx.networks.clip import TextEncoder, VisionEncoder
from ipa_mlx.networks.weights import arrays, fill
from oracle import models, open_clip
from oracle.clip_spellings import (
    SQUARE,
    WIDE,
    Tensors,
    text_config,
    text_of,
    to_open_clip,
    under,
    vision_config,
    vision_of,
    whole,
)
from oracle.containers import array_bits, bits, save
from oracle.measure import relative

PROJECTED = {"architectures": ["CLIPTextModelWithProjection"]}


def text_tower(network: torch.nn.Module) -> Tensors:
    return {n: v for n, v in network.state_dict().items() if not n.startswith("visual.")}


def is_state(path: Path, spec: ClipTextSpec, module: torch.nn.Module) -> bool:
    """Whether we read from the file what a module of transformers holds, bit for bit."""
    state = {
        name if name.startswith("text_") else f"text_model.{name}": value
        for name, value in module.state_dict().items()
    }
    found = {n: v for n, _, v in convert(open_file(path), clip_text.table(spec)).originals()}
    return found.keys() == state.keys() and all(
        np.array_equal(array_bits(values), bits(state[name])) for name, values in found.items()
    )


@pytest.mark.matrix
@pytest.mark.parametrize("projection", [WIDE, SQUARE])
@pytest.mark.parametrize("embedder", [0, 1], ids=["refiner", "second encoder"])
def test_diffusers_reads_sdxl_alike(embedder: int, projection: int, tmp_path: Path) -> None:
    config = text_config(projection)
    network = open_clip.build(text=config, vision=models.VISION, projection=projection)
    tensors = text_tower(network)
    CLIPTextConfig(**config).save_pretrained(tmp_path)
    module = create_diffusers_clip_model_from_ldm(
        CLIPTextModelWithProjection,
        under(f"conditioner.embedders.{embedder}.model.", tensors),
        config=str(tmp_path),
    )
    spec = ClipTextSpec.from_config(config | PROJECTED)
    for written in (tensors, under("model.", tensors)):
        assert is_state(save(tmp_path / "a.safetensors", written), spec, module)


SD2 = text_config(12) | {
    "hidden_size": 8,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 24,
}


@pytest.mark.matrix
def test_diffusers_reads_sd2_alike(tmp_path: Path) -> None:
    """The last of 24 layers, and the projection, are left out by both."""
    tensors = text_tower(open_clip.build(text=SD2, vision=models.VISION, projection=12))
    config = SD2 | {"num_hidden_layers": 23}
    CLIPTextConfig(**config).save_pretrained(tmp_path)
    module = create_diffusers_clip_model_from_ldm(
        CLIPTextModel, under("cond_stage_model.model.", tensors), config=str(tmp_path)
    )
    path, spec = save(tmp_path / "a.safetensors", tensors), ClipTextSpec.from_config(config)
    assert is_state(path, spec, module)
    last = {name for name in tensors if name.startswith("transformer.resblocks.23.")}
    assert len(last) == 12
    dropped = convert(open_file(path), clip_text.table(spec)).dropped
    assert dropped.keys() == last | {"text_projection", "logit_scale"}


@pytest.mark.parametrize(("layers", "more"), [(23, PROJECTED), (22, {}), (22, PROJECTED)])
def test_no_other_model_loses_its_last_layer(
    layers: int, more: dict[str, Any], tmp_path: Path
) -> None:
    """Only where the config has exactly 23 layers, and no projection."""
    network = open_clip.build(text=SD2, vision=models.VISION, projection=12)
    path = save(tmp_path / "a.safetensors", network.state_dict())
    spec = ClipTextSpec.from_config(SD2 | {"num_hidden_layers": layers} | more)
    with pytest.raises(CheckpointError, match=rf"left over: transformer\.resblocks\.{layers}"):
        convert(open_file(path), clip_text.table(spec))


def test_a_stray_layer_is_not_dropped(tmp_path: Path) -> None:
    tensors = text_tower(open_clip.build(text=SD2, vision=models.VISION, projection=12))
    stray = {n: v for n, v in tensors.items() if not n.startswith("transformer.resblocks.22.")}
    path = save(tmp_path / "a.safetensors", stray)
    spec = ClipTextSpec.from_config(SD2 | {"num_hidden_layers": 22})
    with pytest.raises(CheckpointError, match=r"12 left over: transformer\.resblocks\.23"):
        convert(open_file(path), clip_text.table(spec))


@pytest.mark.parametrize("projection", [WIDE, SQUARE, 48])
def test_the_writer_of_these_tests(projection: int) -> None:
    """What it writes as OpenCLIP's, that network takes, and computes as transformers' does."""
    tensors = whole(projection)
    texts, visions = text_config(projection), vision_config(projection)
    visions |= {"hidden_act": texts["hidden_act"]}
    network = open_clip.build(text=texts, vision=visions, projection=projection)
    network.load_state_dict(to_open_clip(tensors) | {"logit_scale": tensors["logit_scale"]})
    text = CLIPTextModelWithProjection(CLIPTextConfig(**texts)).eval()
    text.load_state_dict(text_of(tensors))
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**visions)).eval()
    vision.load_state_dict(vision_of(tensors))
    ids, pixels = some_ids(), some_pixels()
    with torch.no_grad():
        for found, expected in (
            (network.encode_text(ids), text(ids).text_embeds),
            (network.encode_image(pixels), vision(pixels).image_embeds),
        ):
            assert relative(found.numpy(), expected.numpy()) < 1e-6  # measured 2.4e-7


def some_ids() -> torch.Tensor:
    """Two prompts: random tokens, then the end token, which has the greatest number."""
    ids = torch.randint(0, 672, (2, 77), generator=torch.Generator().manual_seed(1))
    ids[0, 5:] = 673
    ids[1, 60:] = 673
    return ids


def text_embeds(table: Table, path: Path, spec: ClipTextSpec) -> np.ndarray:
    """By our MLX module: the projected state of the first end token."""
    encoder = TextEncoder(spec)
    fill(encoder, arrays(convert(open_file(path), table), mx.float32), "here")
    ids = some_ids()
    states = np.array(encoder.projection(encoder(mx.array(ids.numpy()))))
    return states[np.arange(2), ids.argmax(1).numpy()]


def image_embeds(table: Table, path: Path, spec: ClipVisionSpec) -> np.ndarray:
    encoder = VisionEncoder(spec)
    fill(encoder, arrays(convert(open_file(path), table), mx.float32), "here")
    return np.array(encoder.embedding(mx.array(some_pixels().permute(0, 2, 3, 1).numpy())))


def some_pixels() -> torch.Tensor:
    return torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(2))


def swap_queries_and_keys(alias: Any) -> Any:
    if isinstance(alias, Split):
        q, k, v = alias.targets
        return replace(alias, targets=(k, q, v))
    return alias


def forget_to_turn(alias: Any) -> Any:
    return alias.rule if isinstance(alias, Turned) else alias


def swap_norms(alias: Any) -> Any:
    if isinstance(alias, Rename) and ".ln_" in alias.source:
        words = str.maketrans("12", "21")
        return Rename(alias.source.translate(words), alias.target)
    return alias


MISTAKES = [None, swap_queries_and_keys, forget_to_turn, swap_norms]


def mistaken(table: Table, mistake: Callable[[Any], Any] | None) -> Table:
    return replace(table, aliases=tuple(map(mistake, table.aliases))) if mistake else table


@pytest.mark.matrix
@pytest.mark.parametrize("custom", [False, True], ids=["CLIP", "CustomTextCLIP"])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: getattr(m, "__name__", "none"))
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_open_clip_computes_the_same(act: str, mistake: Any, custom: bool, tmp_path: Path) -> None:
    """With square projections, where no shape shows a mistake: each is far from the truth."""
    width = models.VISION["hidden_size"]
    texts, visions = text_config(SQUARE, hidden_act=act), vision_config(width) | {"hidden_act": act}
    assert texts["hidden_size"] == SQUARE
    networks = {
        projection: open_clip.build(
            text=texts, vision=visions, projection=projection, custom=custom
        )
        for projection in (SQUARE, width)
    }
    paths = {p: save(tmp_path / f"{p}.safetensors", n.state_dict()) for p, n in networks.items()}
    text, vision = ClipTextSpec.from_config(texts | PROJECTED), ClipVisionSpec.from_config(visions)
    found = (
        text_embeds(mistaken(clip_text.table(text), mistake), paths[SQUARE], text),
        image_embeds(mistaken(clip_vision.table(vision), mistake), paths[width], vision),
    )
    with torch.no_grad():
        expected = (
            networks[SQUARE].encode_text(some_ids()),
            networks[width].encode_image(some_pixels()),
        )
    for ours, theirs in zip(found, expected, strict=True):
        error = relative(ours, theirs.numpy())
        assert error < 5e-6 if mistake is None else error > 0.2  # measured 6.4e-7, and from 0.36


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_activations_are_told_apart(tower: str, tmp_path: Path) -> None:
    """By what is computed: a wrong row of `clip_configs` could not hide."""
    act, wrong = {"hidden_act": "gelu"}, {"hidden_act": "quick_gelu"}
    texts, visions = text_config(WIDE) | act, vision_config(WIDE) | act
    network = open_clip.build(text=texts, vision=visions, projection=WIDE)
    path = save(tmp_path / "a.safetensors", network.state_dict())
    with torch.no_grad():
        if tower == "text":
            text = ClipTextSpec.from_config(texts | PROJECTED | wrong)
            found = text_embeds(clip_text.table(text), path, text)
            expected = network.encode_text(some_ids())
        else:
            vision = ClipVisionSpec.from_config(visions | wrong)
            found = image_embeds(clip_vision.table(vision), path, vision)
            expected = network.encode_image(some_pixels())
    assert relative(found, expected.numpy()) > 1e-3  # measured from 7e-3
