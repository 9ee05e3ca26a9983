"""Each MLX network against diffusers' or transformers' own, float32, random weights.

Limits are on the relative L2 distance; the reference itself is 4e-7 to 8e-7 from its own float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from ipa.sources.model_folder import open_model_folder
from ipa_mlx import backend
from ipa_mlx.backend import MlxBackend
from ipa_mlx.conditioning import Conditioning, masked
from ipa_torch.files.weights import quiet
from oracle.measure import relative


@pytest.fixture(scope="module")
def runtime(tiny: Path) -> MlxBackend:
    return backend.load(open_model_folder(tiny, name="tiny"), dtype="float32")


def reference(kind: Any, folder: Path) -> torch.nn.Module:
    with quiet():
        return kind.from_pretrained(folder).eval().requires_grad_(requires_grad=False)


def nhwc(array: np.ndarray) -> mx.array:
    return mx.array(np.ascontiguousarray(array.transpose(0, 2, 3, 1)))


def nchw(array: mx.array) -> np.ndarray:
    return np.array(array).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 12), (1, 3)])
def test_unet(
    runtime: MlxBackend, tiny: Path, size: tuple[int, int], draw: np.random.Generator
) -> None:
    x = draw.standard_normal((2, 4, *size), dtype=np.float32)
    text = draw.standard_normal((2, 9, 40), dtype=np.float32)
    keys_values = tuple(a.keys_values(mx.array(text)) for a in runtime.unet.cross_attentions)
    context = Conditioning(2, keys_values, ()).context(())
    unet = reference(UNet2DConditionModel, tiny / "unet")
    for timestep in (0.0, 499.3, 999.0):
        found = nchw(runtime.unet(nhwc(x), timestep, context))
        expected = unet(torch.from_numpy(x), torch.tensor(timestep), torch.from_numpy(text)).sample
        assert relative(found, expected.numpy()) < 4e-6  # measured 1.5e-6


def test_vae_decoder(runtime: MlxBackend, tiny: Path, draw: np.random.Generator) -> None:
    latents = draw.standard_normal((2, 4, 6, 5), dtype=np.float32)
    vae = reference(AutoencoderKL, tiny / "vae")
    expected = vae.decode(torch.from_numpy(latents) / vae.config.scaling_factor).sample
    assert relative(nchw(runtime.vae.decode(nhwc(latents))), expected.numpy()) < 1e-5


def test_vae_encoder(
    tiny: Path, backend: str, open_pipeline: Any, draw: np.random.Generator
) -> None:
    """The posterior, scaled; both backends through the interface of the loop."""
    pixels = draw.uniform(-1, 1, (1, 3, 40, 56)).astype(np.float32)
    vae = reference(AutoencoderKL, tiny / "vae")
    posterior = vae.encode(torch.from_numpy(pixels)).latent_dist
    runtime = open_pipeline(tiny, backend)._loaded.backend
    for found, wanted in zip(runtime.encode(pixels), (posterior.mean, posterior.std), strict=True):
        assert relative(found, (wanted * vae.config.scaling_factor).numpy()) < 1e-5


def test_text_encoder(runtime: MlxBackend, tiny: Path, draw: np.random.Generator) -> None:
    ids = draw.integers(0, 674, (2, 77))
    expected = reference(CLIPTextModel, tiny / "text_encoder")(torch.from_numpy(ids))
    found = np.array(runtime.text_encoder(mx.array(ids)))
    assert relative(found, expected.last_hidden_state.numpy()) < 5e-6


def test_vision_encoder(tiny: Path, draw: np.random.Generator) -> None:
    from ipa.model.clip import ClipVisionSpec
    from ipa.model.files import read_json
    from ipa_convert import read_component
    from ipa_mlx.networks.clip import VisionEncoder
    from ipa_mlx.networks.weights import arrays, fill

    folder = tiny / "image_encoder"
    spec = ClipVisionSpec.from_config(read_json(folder / "config.json"))
    encoder = VisionEncoder(spec)
    fill(encoder, arrays(read_component("image_encoder", folder, spec), mx.float32), "tiny")
    pixels = draw.standard_normal((2, 3, 28, 28), dtype=np.float32)
    tower = reference(CLIPVisionModelWithProjection, folder)
    expected = tower(torch.from_numpy(pixels), output_hidden_states=True)
    assert relative(np.array(encoder.embedding(nhwc(pixels))), expected.image_embeds.numpy()) < 5e-6
    states = np.array(encoder.states(nhwc(pixels)))
    assert relative(states, expected.hidden_states[-2].numpy()) < 5e-6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_as_good_as_torch(tiny: Path, dtype: str, references: list) -> None:
    """Ours against our own float32, torch's against torch's: no more than twice as far."""
    import ipa

    errors = {}
    for name, options in {"mlx": {}, "torch": {"device": "cpu"}}.items():
        latents = {}
        for precision in ("float32", dtype):
            pipe = ipa.load(tiny, backend=name, dtype=precision, **options)
            pipe.load_ip_adapter(tiny / "linear.safetensors")
            latents[precision] = pipe(
                "a star",
                ip_adapter_image=references[0],
                num_inference_steps=4,
                guidance_scale=3.0,
                width=64,
                height=64,
                output_type="latent",
            ).latents
        errors[name] = relative(latents[dtype], latents["float32"])
    assert 0 < errors["mlx"] < 2 * errors["torch"], errors


def test_outside_a_mask_a_site_gives_its_stock_bits(
    runtime: MlxBackend, draw: np.random.Generator
) -> None:
    """The image branch multiplied by 0 adds nothing to those queries; pictures stand in line."""
    module = runtime.unet.cross_attentions[0]
    states = mx.array(draw.standard_normal((2, 9, 40), dtype=np.float32))
    image = module.keys_values(mx.array(draw.standard_normal((2, 4, 40), dtype=np.float32)))
    mask = np.repeat(np.array([0.0, 1.0, 0.5], np.float32), 8)
    rows = mx.array(draw.standard_normal((6, 24, module.to_q.weight.shape[1]), dtype=np.float32))
    text, found = (module.keys_values(states),), []
    for images in ((), (masked((image,), None),), (masked((image,), [mask]),)):
        context = Conditioning(2, text, images).context([[0.8]] * len(images))
        found.append(np.split(np.array(module(rows, context)), 3, axis=1))
    off, on, half = found
    assert np.array_equal(half[0], off[0]) and np.array_equal(half[1], on[1])
    assert np.abs(half[2] - (off[2] + on[2]) / 2).max() < 1e-6  # measured 4e-7
    assert np.abs(half[0] - on[0]).max() > 0.01
