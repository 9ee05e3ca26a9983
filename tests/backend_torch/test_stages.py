"""Encoders and autoencoder of the reference against diffusers' pipeline, and its own promises."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import diffusers.utils.logging
import numpy as np
import pytest
import torch
import transformers.utils.logging

from ipa.backend.protocol import Backend, Branch
from ipa.backend.schedule import Step
from ipa.errors import NumericalError
from ipa.model.folder import AdapterFiles
from ipa_torch.backend import TorchBackend
from ipa_torch.sampler import advance
from oracle import models
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline

Open = Callable[..., TorchBackend]
SIDE = models.VISION["image_size"]


@pytest.fixture(scope="module")
def reference(tiny: Path, open_reference: Open) -> TorchBackend:
    return open_reference(tiny, "linear", "plus", "full")


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["linear", "plus", "full"])
def test_image_tokens(name: str, count: int, reference: TorchBackend, tiny: Path) -> None:
    """Both rows against diffusers' projection of what its pipeline prepares."""
    pixels = draw(count, 3, SIDE, SIDE)
    pipe = diffusers_pipeline(tiny, [tiny / f"{name}.safetensors"])
    with torch.no_grad():
        images = pipe.prepare_ip_adapter_image_embeds(
            [torch.from_numpy(pixels)], None, "cpu", 1, True
        )
        (projected,) = pipe.unet.encoder_hid_proj(images)
    expected = projected.flatten(1, 2).numpy()
    tokens = reference.project(name, *reference.encode_images(name, pixels))
    found = torch.cat([tokens.unconditional, tokens.conditional]).numpy()
    per_picture = {"linear": 4, "plus": 6, "full": (SIDE // 7) ** 2 + 1}[name]
    assert found.shape == expected.shape == (2, count * per_picture, 40)
    # Tokens leave a layer norm, so they are of the order of 1; measured 1.2e-6.
    assert np.abs(found - expected).max() < 4e-6


def test_embeddings_are_the_encoders(reference: TorchBackend, tiny: Path) -> None:
    pixels = draw(2, 3, SIDE, SIDE, seed=1)
    encoder = diffusers_pipeline(tiny).image_encoder
    with torch.no_grad():
        expected = encoder(torch.from_numpy(pixels)).image_embeds.numpy()
    for name in ("linear", "plus"):
        assert np.array_equal(reference.embed_images(name, pixels), expected)


def test_encoder_that_comes_with_the_adapter(
    tiny: Path, tmp_path: Path, open_reference: Open
) -> None:
    """It is used instead of the model's own, shared by path, and forgotten with its last user."""
    vision = models.VISION | {"image_size": 42, "hidden_size": 60}
    other = models.build_folder(tmp_path / "m", models.Tiny(vision=vision), seed=9)
    own = open_reference(tiny, "linear")
    files = AdapterFiles(
        name="b", weights=tiny / "linear.safetensors", image_encoder=other / "image_encoder"
    )
    loaded = own.load_adapter("b", files)
    own.load_adapter("c", files)
    assert (loaded.encoder.image_size, loaded.encoder.width) == (42, 60)
    assert loaded.preprocessing["crop_size"] in (42, {"height": 42, "width": 42})
    with torch.no_grad():
        pixels = draw(1, 3, 42, 42)
        encoder = diffusers_pipeline(other).image_encoder
        expected = encoder(torch.from_numpy(pixels)).image_embeds.numpy()
    assert np.array_equal(own.embed_images("b", pixels), expected)
    own.unload_adapter("b")
    assert np.array_equal(own.embed_images("c", pixels), expected)
    own.unload_adapter("c")
    assert sum(key.startswith("image_encoder") for key in own.describe()["bytes"]) == 1


def test_text(reference: TorchBackend, tiny: Path) -> None:
    pipe = diffusers_pipeline(tiny)
    with torch.no_grad():
        expected, _ = pipe.encode_prompt("a red star", "cpu", 1, False)
    ids = pipe.tokenizer("a red star", padding="max_length", max_length=77).input_ids
    assert torch.equal(reference.encode_text(np.array([ids], np.int32)).states, expected)


def test_decoder_and_encoder(reference: TorchBackend, tiny: Path) -> None:
    pipe = diffusers_pipeline(tiny)
    latents, pixels = draw(2, 4, 6, 5), np.tanh(draw(2, 3, 48, 40))
    with torch.no_grad():
        decoded = [
            pipe.vae.decode(x[None] / pipe.vae.config.scaling_factor).sample
            for x in torch.from_numpy(latents)
        ]
        expected = pipe.image_processor.postprocess(torch.cat(decoded), output_type="np")
        posteriors = [pipe.vae.encode(x[None]).latent_dist for x in torch.from_numpy(pixels)]
    assert np.array_equal(reference.decode(reference.from_numpy(latents)), expected)
    for found, name in zip(reference.encode(pixels), ("mean", "std"), strict=True):
        wanted = torch.cat([getattr(p, name) for p in posteriors]) * pipe.vae.config.scaling_factor
        assert np.array_equal(found, wanted)


def test_decoder_overflow_is_retried_in_float32(tiny: Path, open_reference: Open) -> None:
    """Scaled up past 65504 before the last norm, which takes any scale out again."""
    own, wide = open_reference(tiny, dtype="float16"), open_reference(tiny)
    latents = own.from_numpy(draw(1, 4, 6, 5))
    for runtime in (own, wide):
        with torch.inference_mode():
            runtime.vae.decoder.conv_in.weight.mul_(30000)
    before = {name: tensor.clone() for name, tensor in own.vae.state_dict().items()}
    found = own.decode(latents)
    (warning,) = own.describe()["warnings"]
    assert "decoded again in float32" in warning
    # float16 weights, float32 arithmetic; measured 5e-4 of values in [0, 1].
    assert np.abs(found - wide.decode(latents)).max() < 2e-3
    assert own.vae.dtype == torch.float16
    assert all(torch.equal(own.vae.state_dict()[name], before[name]) for name in before)
    own.reset()
    assert own.describe()["warnings"] == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_decoder_that_gives_no_numbers(
    value: float, dtype: str, tiny: Path, open_reference: Open
) -> None:
    """Infinity too, which clamping to [0, 1] would hide."""
    own = open_reference(tiny, dtype=dtype)
    own.vae.decoder.conv_out.bias.data.fill_(value)
    with pytest.raises(NumericalError, match="NaN or infinite"):
        own.decode(own.from_numpy(draw(1, 4, 6, 5)))
    assert own.vae.dtype == own.unet.dtype


@pytest.mark.parametrize(("dtype", "limit"), [("float16", 4e-3), ("bfloat16", 3e-2)])
def test_half_precision(
    dtype: str, limit: float, reference: TorchBackend, tiny: Path, open_reference: Open
) -> None:
    """Relative L2 to the reference's own float32; measured 1.9e-3 and 1.6e-2."""
    own = open_reference(tiny, "plus", dtype=dtype)
    assert (own.dtype, own.unet.dtype, own.vae.dtype) == (dtype,) + (getattr(torch, dtype),) * 2
    assert one_step(own).dtype == np.float32
    assert 1e-5 < relative(one_step(own), one_step(reference)) < limit


def one_step(runtime: TorchBackend) -> np.ndarray:
    """Text, picture, one evaluation of the UNet."""
    ids = np.arange(77, dtype=np.int32)[None]
    tokens = runtime.project("plus", *runtime.encode_images("plus", draw(2, 3, SIDE, SIDE)))
    text = [runtime.encode_text(ids), runtime.encode_text(ids[:, ::-1].copy())]
    conditioning = runtime.condition(text, [Branch("plus", tokens)], guided=True)
    row = Step(timestep=301.0, input_scale=0.7, denoised_x=1.0, denoised_output=0.0, x_x=1.0)
    latents = runtime.from_numpy(draw(1, 4, 8, 8))
    weights = [[0.8] * len(runtime.model.sites)]
    return runtime.to_numpy(runtime.predict(latents, row, conditioning, weights))


def test_latents_cross_unchanged(reference: TorchBackend) -> None:
    """Also read-only and strided ones, and later changes of the caller's array stay outside."""
    array = draw(5, 6, 4, 2).transpose(3, 2, 0, 1)
    array.setflags(write=False)
    tensor = reference.from_numpy(array)
    assert tensor.dtype == torch.float32
    assert np.array_equal(reference.to_numpy(tensor), array)
    writable = array.copy()
    tensor = reference.from_numpy(writable)
    writable += 1
    assert np.array_equal(reference.to_numpy(tensor), array)


def test_rows_are_applied_as_they_are_written() -> None:
    """The formulas of `ipa.backend.schedule`, in float64 numpy."""
    x, o, p, q, n = (draw(1, 4, 3, 3, seed=i) for i in range(5))
    row = Step(
        timestep=1.0,
        input_scale=1.0,
        denoised_x=0.9,
        denoised_output=-0.4,
        x_x=0.3,
        x_output=0.2,
        x_denoised=-0.7,
        x_history=(0.15, -0.25),
        memory=(0.5, 0.0, 2.0),
        x_noise=0.6,
        clip=0.5,
    )
    latents, output, before, earlier, noise = (torch.from_numpy(a) for a in (x, o, p, q, n))
    d = np.clip(0.9 * x.astype(np.float64) - 0.4 * o, -0.5, 0.5)
    following, denoised, memory = advance(row, latents, output, [before, earlier], noise)
    np.testing.assert_allclose(denoised.numpy(), d, atol=1e-6)
    whole = 0.3 * x + 0.2 * o - 0.7 * d + 0.15 * p - 0.25 * q + 0.6 * n
    np.testing.assert_allclose(following.numpy(), whole, atol=1e-6)
    np.testing.assert_allclose(memory.numpy(), 0.5 * x + 2.0 * d, atol=1e-6)


def test_describe_is_json_and_the_protocol_is_kept(reference: TorchBackend) -> None:
    import json

    described = json.loads(json.dumps(reference.describe()))
    assert described["backend"] == "torch"
    assert described["device"] == "cpu"
    assert described["bytes"]["unet"] == sum(
        4 * parameter.numel() for parameter in reference.unet.parameters()
    )
    assert reference.peak_memory() is None
    members = [name for name in vars(Backend) if not name.startswith("_")]
    assert all(hasattr(reference, name) for name in (*members, *Backend.__annotations__))


def test_nothing_global_is_left_changed(tiny: Path, open_reference: Open) -> None:
    """Gradients, TF32, and how loud the libraries are."""

    def state() -> tuple[object, ...]:
        libraries = (diffusers.utils.logging, transformers.utils.logging)
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.enabled,
            torch.get_rng_state().sum().item(),
            *(library.get_verbosity() for library in libraries),
            transformers.utils.logging.is_progress_bar_enabled(),
            logging.root.level,
        )

    before = state()
    own = open_reference(tiny, "linear", "plus")
    one_step(own)
    own.decode(own.from_numpy(draw(1, 4, 6, 5)))
    assert state() == before


def test_convolutions_run_without_tf32(
    reference: TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA float32 convolutions keep ten bits of mantissa unless told otherwise."""
    seen = []
    forward = reference.unet.conv_in.forward

    def spy(x: torch.Tensor) -> torch.Tensor:
        seen.append((torch.backends.cudnn.allow_tf32, torch.is_inference_mode_enabled()))
        return forward(x)

    monkeypatch.setattr(reference.unet.conv_in, "forward", spy)
    one_step(reference)
    assert seen == [(False, True)]
