"""The value and its files: formulas in float64, torch's own reader and writer as judges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import ipa_convert
from ipa import CheckpointError, ImageEmbeds, RequestError
from ipa.prepare.image_prompts.ipadpt import read_ipadpt, write_ipadpt
from ipa.request.combining import COMBINE_MODES, combined
from ipa.request.embeds import EmbedsOrigin

STATES = EmbedsOrigin(
    feature="states", encoder="an encoder", encoder_sha256="a" * 64, preprocessing_sha256="b" * 64
)
POOLED = replace(STATES, feature="embedding")


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def embeds(count: int = 3, rows: int = 1, origin: EmbedsOrigin = STATES) -> ImageEmbeds:
    shape = (5, 4) if origin.feature == "states" else (6,)
    return ImageEmbeds(
        conditional=draw(count, *shape), unconditional=draw(rows, *shape, seed=1), origin=origin
    )


def oracle(mode: str, rows: list[list[float]], weights: list[float]) -> list[float]:
    """ComfyUI's formulas, number by number, in Python's floats."""
    result = []
    for values in zip(*rows, strict=True):
        e = [w * v for w, v in zip(weights, values, strict=True)]
        norm = sum(v * v for v in e) ** 0.5
        result.append(
            {
                "add": sum(e),
                "subtract": e[0] - sum(e[1:]) / len(e[1:]),
                "average": sum(e) / sum(weights),
                "norm average": sum(v / norm if norm else 0.0 for v in e) / len(e),
                "max": max(e),
                "min": min(e),
            }[mode]
        )
    return result


@pytest.mark.parametrize("weights", [None, [2.0, -0.5, 1.0, 0.25]], ids=["plain", "weighted"])
@pytest.mark.parametrize("mode", [mode for mode in COMBINE_MODES if mode != "concat"])
def test_formulas(mode: str, weights: list[float] | None) -> None:
    features = draw(4, 3, 5)
    features[:, 0, 0] = 0.0  # 0 / 0 in a norm
    wanted = oracle(mode, features.astype(float).reshape(4, -1).tolist(), weights or [1.0] * 4)
    found = combined(features, mode, weights)
    assert found.shape == (1, 3, 5) and found.dtype == np.float32
    # Computed in float64 and rounded once: half a bit of float32.
    assert np.allclose(found.ravel(), np.float32(wanted), rtol=6e-8, atol=1e-12)


def test_one_picture_alone_is_left_as_it_is() -> None:
    one = embeds(1)
    for mode in COMBINE_MODES:
        assert np.array_equal(one.combine(mode).conditional, one.conditional)
    assert np.array_equal(one.combine("add", [2.0]).conditional, 2 * one.conditional)
    assert np.array_equal(one.combine("average", [2.0]).conditional, one.conditional)


def test_concat_with_weights_keeps_all() -> None:
    found = embeds(3, rows=3).combine("concat", [1.0, 0.5, 0.0])
    assert np.array_equal(found.conditional[1], embeds().conditional[1] / 2)
    assert not found.conditional[2].any() and len(found.unconditional) == 3


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, np.nan], ["a", 1, 2], [[1, 2, 3]], 3.0])
def test_weights_that_do_not_fit(weights: Any) -> None:
    with pytest.raises(RequestError, match="weights must be"):
        embeds(3).combine("add", weights)


def test_an_average_of_nothing() -> None:
    with pytest.raises(RequestError, match=r'sum to 0.*use "add"'):
        embeds(2).combine("average", [1.0, -1.0])


def test_an_unknown_mode_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="found: 'subtrakt'; remedy: did you mean 'subtract'"):
        embeds().combine("subtrakt")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conditional": draw(3, 4)}, r"shape \(pictures, tokens, width\); found: \(3, 4\)"),
        ({"conditional": draw(0, 5, 4)}, "shape"),
        ({"conditional": [[1.0]]}, "numpy array of floats; found: list"),
        ({"conditional": np.ones((3, 5, 4), np.int32)}, "int32"),
        ({"conditional": np.full((3, 5, 4), np.nan, np.float32)}, "conditional holds NaN"),
        ({"unconditional": np.full((1, 5, 4), 1e39)}, "unconditional holds NaN, infinity, or more"),
        ({"unconditional": draw(2, 5, 4)}, r"found: \(2, 5, 4\) beside \(3, 5, 4\)"),
        ({"unconditional": draw(1, 6, 4)}, "do not fit"),
    ],
)
def test_values_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        replace(embeds(), **changes)


def test_it_is_a_value() -> None:
    given = draw(2, 6).astype(np.float16)
    own = ImageEmbeds(conditional=given, unconditional=given[:1], origin=POOLED)
    given[:] = 0.0
    assert own.conditional.all() and own.conditional.dtype == np.float32 and len(own) == 2
    with pytest.raises(ValueError, match="read-only"):
        own.conditional[0] = 1.0


def test_joining() -> None:
    one, two = embeds(1), embeds(2)
    assert ImageEmbeds.join([one, two]).unconditional.shape == (1, 5, 4)
    other = two.against(replace(one, conditional=draw(1, 5, 4, seed=9)))
    joined = ImageEmbeds.join([one, other])
    assert np.array_equal(joined.unconditional[0], one.unconditional[0])
    assert np.array_equal(joined.unconditional[1:], other.unconditional)
    with pytest.raises(RequestError, match="a list of ImageEmbeds is needed"):
        ImageEmbeds.join([])
    with pytest.raises(RequestError, match="joined come from another image encoder"):
        ImageEmbeds.join([one, replace(two, origin=replace(STATES, encoder_sha256="c" * 64))])


@pytest.mark.parametrize("origin", [STATES, POOLED], ids=lambda o: o.feature)
def test_saved_and_loaded_bit_for_bit(origin: EmbedsOrigin, tmp_path: Path) -> None:
    for rows in (1, 3):
        own = embeds(rows=rows, origin=origin)
        own.save(tmp_path / "x.safetensors")
        found = ImageEmbeds.load(tmp_path / "x.safetensors")
        assert found.origin == origin
        assert np.array_equal(found.conditional, own.conditional)
        assert np.array_equal(found.unconditional, own.unconditional)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"suffix '.pt'.*ipadpt"):
        embeds().save(tmp_path / "x.pt")
    with pytest.raises(RequestError, match="cannot be written"):
        embeds().save(tmp_path / "no" / "x.safetensors")


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        ImageEmbeds.load(path)
    save_file({"conditional": draw(1, 6)}, path)
    with pytest.raises(CheckpointError, match="no image embeds of this version"):
        ImageEmbeds.load(path)
    embeds(origin=POOLED).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match="damaged"):
        ImageEmbeds.load(path)
    path.write_bytes(whole[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(CheckpointError, match=r"x.safetensors: ImageEmbeds\.\w+ holds NaN"):
        ImageEmbeds.load(path)
    path.write_bytes(whole.replace(b'"feature":"embedding"', b'"feature":"embexxing"'))
    with pytest.raises(CheckpointError, match="no such kind of image features"):
        ImageEmbeds.load(path)


@pytest.mark.parametrize("origin", [STATES, POOLED], ids=lambda o: o.feature)
def test_torch_reads_what_we_write(origin: EmbedsOrigin, tmp_path: Path) -> None:
    path, own = tmp_path / "x.ipadpt", embeds(origin=origin)
    write_ipadpt(own, path)
    (found,) = torch.load(path, weights_only=True)
    both = np.stack([np.repeat(own.unconditional, 3, axis=0), own.conditional])
    assert found.dtype == torch.float32 and np.array_equal(found.numpy(), both)
    write_ipadpt([own, own], path, guided=False)
    one, two = torch.load(path, weights_only=True)
    assert np.array_equal(one.numpy(), own.conditional[None]) and torch.equal(one, two)
    write_ipadpt(own, path, layout="comfyui")
    assert np.array_equal(torch.load(path, weights_only=True).numpy(), own.conditional)
    with pytest.raises(RequestError, match="one adapter's"):
        write_ipadpt([own, own], path, layout="comfyui")
    with pytest.raises(RequestError, match="known: diffusers, comfyui"):
        write_ipadpt(own, path, layout="a1111")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("old", [False, True], ids=["zip", "stream"])
def test_we_read_what_torch_writes(dtype: torch.dtype, old: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.ipadpt"
    tensor = torch.from_numpy(draw(2, 3, 5, 4)).to(dtype)

    def save(value: Any) -> None:
        torch.save(value, path, _use_new_zipfile_serialization=not old)

    save([tensor])
    conditional, unconditional = read_ipadpt(path, (5, 4))
    assert np.array_equal(conditional, tensor[1].float().numpy())
    assert unconditional is not None and np.array_equal(unconditional, tensor[0].float().numpy())
    save((tensor[1:].clone(), torch.zeros(2, 1, 6)))  # beside another adapter's
    conditional, unconditional = read_ipadpt(path, (5, 4))
    assert np.array_equal(conditional, tensor[1].float().numpy()) and unconditional is None
    save(tensor[1].clone())
    assert read_ipadpt(path, (5, 4))[0].shape == (3, 5, 4)


REFUSED: dict[str, tuple[Any, str]] = {
    "a dict": ({"a": torch.ones(1, 6)}, "a dict where a tensor or a list of tensors should be"),
    "an empty list": ([], "a list where a tensor"),
    "words": (["a", torch.ones(1, 1, 6)], "a list where a tensor"),
    "NaN": (torch.full((1, 6), torch.nan), "not finite"),
    "whole numbers": (torch.ones(1, 6, dtype=torch.int64), "type I64"),
    "another width": ([torch.ones(2, 1, 7)], r"a list of shape \(2, 1, 7\).*\(2, N, 6\)"),
    "too many axes": (torch.ones(1, 1, 6), r"a tensor of shape \(1, 1, 6\).*\(N, 6\)"),
    "of two alike": ([torch.ones(2, 1, 6), torch.ones(2, 1, 6)], "do not fit this adapter"),
    "several made at once": ([torch.ones(4, 1, 6)], "num_images_per_prompt=1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_of_torch_that_are_refused(name: str, tmp_path: Path) -> None:
    value, words = REFUSED[name]
    torch.save(value, tmp_path / "x.ipadpt")
    with pytest.raises(CheckpointError, match=words):
        read_ipadpt(tmp_path / "x.ipadpt", (6,))


def test_safetensors_called_ipadpt(tmp_path: Path) -> None:
    save_file({"a": draw(1, 6)}, tmp_path / "x.ipadpt")
    with pytest.raises(CheckpointError, match=r"no file of torch\.save; found: a safetensors file"):
        read_ipadpt(tmp_path / "x.ipadpt", (6,))


def test_lists_survive_any_shape(tmp_path: Path) -> None:
    arrays = [draw(*shape) for shape in ((1,), (2, 3), (2, 1, 300, 7))]
    (tmp_path / "x").write_bytes(ipa_convert.write_tensor_list(arrays))
    found, single = ipa_convert.read_tensor_list(tmp_path / "x")
    assert not single and all(map(np.array_equal, found, arrays))
    theirs = torch.load(tmp_path / "x", weights_only=True)
    assert all(np.array_equal(a.numpy(), b) for a, b in zip(theirs, arrays, strict=True))
