"""What else a LoRA's file may hold: a layer under two names, learned words, SDXL's additions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ipa
from ipa import CheckpointError
from ipa.model.clip import ClipTextSpec
from ipa.model.lora import DIFFERENT, EQUAL
from ipa.model.unet import UNetSpec
from ipa_convert import LoraTargets, convert_lora, read_lora
from ipa_convert.lora.pairs import delta
from ipa_convert.tables import ldm
from ipa_torch.files.lora_file import read_lora as read_in_torch
from oracle import loras, models
from oracle.loras import File, Pair, Place
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline, run_diffusers
from oracle.runs.loras import SHARED

# Of a product in float32, over all cases: 2.6e-8 of float64's, 3.0e-8 of diffusers'.
TOLERANCE = 1e-7
TARGETS = LoraTargets(
    unet=UNetSpec.from_config(loras.SDXL_UNET),
    text_encoder=ClipTextSpec.from_config(loras.SDXL_TEXT),
    text_encoder_2=ClipTextSpec.from_config(loras.SDXL_TEXT_2),
)
SDXL = loras.sdxl_pipeline()  # whose networks no reader changes
LAYERS = loras.layers(SDXL)
DOWN = (".lora_down.weight", ".lora_A.weight", ".down.weight")
Pairs = dict[Place, Pair]
Deltas = Mapping[Place, np.ndarray]


def some(seed: int, *, alphas: bool = True) -> Pairs:
    """Some layers of the UNet and of the texts, with one alpha or none."""
    unet = [n for n in LAYERS if n[0] == "unet" and "add_embedding" not in n[1]][::17]
    texts = [n for n in LAYERS if n[0] != "unet"][::5]
    pairs = loras.random_pairs({n: LAYERS[n] for n in (*unet, *texts)}, seed, ranks=(2,))
    return loras.weak(pairs, alpha=3.0 if alphas else None)


def of(pairs: Pairs, component: str) -> Pairs:
    return {place: pair for place, pair in pairs.items() if place[0] == component}


def original(pairs: Pairs) -> File:
    """The UNet's part by the names of the original blocks."""
    unet = of(pairs, "unet")
    names = ldm.unet_names([path for _, path in unet], TARGETS.unet)
    return loras.kohya(unet, "sdxl", {here: there for there, here in names.items()})


def joined(*files: File) -> File:
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        assert not tensors.keys() & file.tensors.keys()
        tensors |= {name: tensor.clone() for name, tensor in file.tensors.items()}
    return File(tensors)


def first_text(pairs: Pairs, prefix: str) -> File:
    tensors = loras.kohya(of(pairs, "text_encoder"), "sdxl").tensors
    return File({n.replace("lora_te1_", prefix): t for n, t in tensors.items()})


@dataclass(frozen=True)
class Case:
    """A file, what must be used of it, what is said of the rest, and whether diffusers agrees."""

    file: File
    used: Pairs
    left_out: set[str]
    judged: bool = True


ONE, TWO = some(1), some(2)
PLAIN, OTHER = some(1, alphas=False), some(2, alphas=False)
HALF = dict(list(of(ONE, "unet").items())[::2])
REST = {place: pair for place, pair in of(ONE, "unet").items() if place not in HALF}
CASES = {
    "original names, equal": Case(joined(loras.kohya(ONE, "sdxl"), original(ONE)), ONE, {EQUAL}),
    "original names, different": Case(
        joined(loras.kohya(ONE, "sdxl"), original(TWO)), ONE, {DIFFERENT}
    ),
    # diffusers loses the layers that have no name but the original one.
    "original names of some": Case(
        joined(loras.kohya(HALF, "sdxl"), original(REST)), HALF | REST, set(), judged=False
    ),
    "dots, equal": Case(joined(loras.peft(PLAIN), loras.kohya(PLAIN, "sdxl")), PLAIN, {EQUAL}),
    "dots, different": Case(
        joined(loras.peft(PLAIN), loras.kohya(TWO, "sdxl")), PLAIN, {DIFFERENT}
    ),
    "dots, another alpha": Case(
        joined(loras.peft(PLAIN), loras.kohya(ONE, "sdxl")), PLAIN, {DIFFERENT}
    ),
    # diffusers reads only one ending of a network.
    "PEFT's and diffusers' endings": Case(
        joined(loras.peft(of(PLAIN, "unet")), loras.middle(of(OTHER, "unet"))),
        of(PLAIN, "unet"),
        {DIFFERENT},
        judged=False,
    ),
    "two prefixes of a text encoder": Case(
        joined(first_text(TWO, "lora_te1_"), first_text(ONE, "lora_te_")),
        of(ONE, "text_encoder"),
        {DIFFERENT},
    ),
    "ComfyUI's and kohya's": Case(
        joined(
            loras.kohya(of(PLAIN, "unet"), "sdxl"),
            loras.comfy(
                of(OTHER, "unet"),
                {
                    here: there
                    for there, here in ldm.unet_names(
                        [path for _, path in of(OTHER, "unet")], TARGETS.unet
                    ).items()
                },
            ),
        ),
        of(PLAIN, "unet"),
        {DIFFERENT},
        judged=False,
    ),
}


def by_mlx(path: Path) -> tuple[Deltas, Mapping[str, str]]:
    lora = read_lora(path, TARGETS)
    found = {(p.module.component, p.module.path): delta(p, "diffusers") for p in lora.values()}
    return found, lora.dropped


def by_torch(path: Path) -> tuple[Deltas, Mapping[str, str]]:
    names = ("unet", "text_encoder", "text_encoder_2")
    parts, _, left_out = read_in_torch(path, {n: getattr(SDXL, n) for n in names})
    found = {}
    for part, tensors in parts.items():
        for name, down in tensors.items():
            if "lora_A" in name:
                up, stem = (
                    tensors[name.replace("lora_A", "lora_B")],
                    name.removesuffix(".lora_A.weight"),
                )
                flat = part != "unet" and stem.startswith("encoder.")
                place = (part, f"text_model.{stem}" if flat else stem)
                found[place] = torch.einsum("or...,ri...->oi...", up, down).numpy()
    return found, left_out


READERS: dict[str, Callable[[Path], tuple[Deltas, Mapping[str, str]]]] = {
    "mlx": by_mlx,
    "torch": by_torch,
}


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("name", CASES)
def test_a_layer_under_two_names(name: str, tmp_path: Path) -> None:
    """Each backend's reader takes what diffusers takes, and lists the rest."""
    case = CASES[name]
    path = loras.write(tmp_path / "a.safetensors", case.file)
    told = {}
    for backend, read in READERS.items():
        found, left_out = read(path)
        assert found.keys() == case.used.keys(), backend
        for place, pair in case.used.items():
            assert np.abs(found[place] - pair.delta.numpy()).max() < TOLERANCE, (backend, place)
        assert set(left_out.values()) == case.left_out, backend
        told[backend] = dict(left_out)
        halves = [n for n in left_out if not n.endswith(".alpha")]
        if name != "original names of some":
            pairs = sum(n.endswith(DOWN) for n in case.file.tensors)
            assert len(halves) == 2 * (pairs - len(case.used))
    assert told["mlx"] == told["torch"]
    if case.judged:
        theirs = loras.fused(lambda: copy.deepcopy(SDXL), path)
        # It loses those of kohya's in texts where there is no out_proj.
        assert theirs.keys() <= case.used.keys() and len(theirs) > 0.6 * len(case.used)
        for place, weight in theirs.items():
            assert np.abs(found[place] - weight.numpy()).max() < TOLERANCE, place


CALL: dict[str, Any] = SHARED | {"output_type": "latent"}
# Relative L2 of the final latents. Measured: torch 1.5e-6, MLX 1.8e-6.
LIMITS = {"torch": 5e-6, "mlx": 5e-6}
# Between two loads on torch: measured 0; another order of sums makes 1.9e-6 (laws/test_loras.py).
ROUNDING = 4e-6


@pytest.mark.parametrize("names", ["diffusers", "original"])
def test_all_of_sdxls_layers(
    names: str, tiny_xl: Path, tmp_path: Path, open_pipeline: Callable[..., ipa.Pipeline]
) -> None:
    """Its additions too, whose names diffusers loses; the judge is it with the sums in its weights.

    The sums are float64's (`oracle.loras.Pair.delta`).
    """
    stock = diffusers_pipeline(tiny_xl)
    every = loras.layers(stock)
    wanted = [n for n in every if n[0] == "unet"]
    wanted = [*wanted[::29], *(n for n in wanted if "_embedding" in n[1])]
    pairs = loras.weak(loras.random_pairs({n: every[n] for n in wanted}, 6), alpha=2.0)
    spec = UNetSpec.from_config(dict(stock.unet.config))
    table = ldm.unet_names([path for _, path in pairs], spec)
    there = {here: there for there, here in table.items()} if names == "original" else None
    path = loras.write(tmp_path / "a.safetensors", loras.kohya(pairs, "sdxl", there))
    with torch.no_grad():
        for place, pair in pairs.items():
            weight = every[place].weight
            weight.copy_((weight.double() + pair.delta).float())
    expected = run_diffusers(stock, "a star", **SHARED)
    for backend, limit in LIMITS.items():
        pipe = open_pipeline(tiny_xl, backend)
        pipe.load_lora(path)
        assert relative(pipe("a star", **CALL).latents, expected) < limit, backend


def rows(seed: int, *shape: int) -> torch.Tensor:
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# By model: the tensors of a word that came with a LoRA, and as a file of its own.
BUNDLES: dict[str, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {
    "tiny": ({"string_to_param.*": rows(3, 2, 40)}, {"emb_params": rows(3, 2, 40)}),
    "tiny_xl": (
        {"clip_l": rows(3, 2, 40), "clip_g": rows(4, 2, 64)},
        {"clip_l": rows(3, 2, 40), "clip_g": rows(4, 2, 64)},
    ),
}


@pytest.mark.parametrize("model", BUNDLES)
def test_bundled_words(
    model: str,
    tmp_path: Path,
    open_pipeline: Callable[..., ipa.Pipeline],
    request: pytest.FixtureRequest,
) -> None:
    """As the LoRA alone beside a file of the word; gone with the LoRA, bit for bit."""
    folder = request.getfixturevalue(model)
    bundled, alone = BUNDLES[model]
    every = loras.layers(diffusers_pipeline(folder))
    pairs = loras.weak(loras.random_pairs(dict(list(every.items())[::29]), 1), alpha=2.0)
    plain = loras.kohya(pairs, "sd" if model == "tiny" else "sdxl")
    extra = {f"bundle_emb.ema y.{part}": tensor for part, tensor in bundled.items()}
    extra |= {"bundle_emb.ema y.clip_l_out": rows(5, 2, 40)}
    extra |= {"bundle_emb.star.clip_l": rows(6, 1, 40), "bundle_emb.star.clip_g": rows(7, 1, 64)}
    extra |= {"bundle_emb.wide.clip_l": rows(6, 1, 768)}
    path = loras.write(tmp_path / "b.safetensors", joined(plain, File(extra)))
    bare = loras.write(tmp_path / "a.safetensors", plain)
    word = loras.write(tmp_path / "w.safetensors", File(alone))
    told = []
    for backend in LIMITS:
        pipe = open_pipeline(folder, backend)
        before = pipe("an ema y star", **CALL).latents
        pipe.load_lora(bare, name="a")
        pipe.load_textual_inversion(word, "ema y")
        expected = pipe("an ema y star", **CALL).latents
        pipe.unload_lora()
        pipe.unload_textual_inversion()
        pipe.load_lora(path, name="b")
        result = pipe("an ema y star", **CALL)
        assert relative(result.latents, expected) <= (0.0 if backend == "mlx" else ROUNDING)
        assert relative(expected, before) > 1e-3
        (known,) = result.info["request"]["textual_inversions"]
        assert (known["token"], known["file"], known["lora"]) == ("ema y", path.name, "b")
        told.append((pipe.info()["loras"]["b"]["left_out"], result.info["warnings"]))
        assert pipe.info()["loras"]["b"]["words"] == ["ema y"]
        pipe.unload_lora("b")
        assert pipe.info()["textual_inversions"] == []
        assert np.array_equal(pipe("an ema y star", **CALL).latents, before)
    assert told[0] == told[1]
    left_out, warnings = told[0]
    assert left_out.keys() == {
        "bundle_emb.ema y.clip_l_out",
        "bundle_emb.star.clip_l",
        "bundle_emb.star.clip_g",
        "bundle_emb.wide.clip_l",
    }
    for words in ("'star' is a word already", "no place for this part", "other text encoders"):
        assert any(words in text for text in warnings), words


def test_bundled_words_are_converted(tmp_path: Path) -> None:
    """A file for MLX keeps them; diffusers takes none, and the file says so."""
    extra = File({"bundle_emb.x.string_to_param.*": rows(1, 2, 40)})
    path = loras.write(tmp_path / "a.safetensors", joined(loras.kohya(ONE, "sdxl"), extra))
    ours = convert_lora(path, tmp_path / "b.safetensors", TARGETS)
    assert [*read_lora(ours, TARGETS).bundled] == [*extra.tensors]
    theirs = convert_lora(path, tmp_path / "c.safetensors", TARGETS, layout="diffusers")
    loras.fused(loras.sdxl_pipeline, theirs)
    assert read_lora(theirs, TARGETS).bundled == {}
    with theirs.open("rb") as file:
        assert b"takes no learned words" in file.read(1 << 16)


def test_half_a_layer_under_another_name(
    tiny: Path, tmp_path: Path, open_pipeline: Callable[..., ipa.Pipeline]
) -> None:
    """A whole pair does not hide that half of another is missing."""
    place = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    width = models.UNET["block_out_channels"][0]
    pair = Pair(torch.ones(2, width), torch.ones(width, 2))
    file = joined(loras.kohya({("unet", place): pair}, "sd"), loras.peft({("unet", place): pair}))
    file.tensors.pop(f"unet.{place}.lora_B.weight")
    path = loras.write(tmp_path / "a.safetensors", file)
    for backend in LIMITS:
        with pytest.raises(CheckpointError, match="to_q"):
            open_pipeline(tiny, backend).load_lora(path)
