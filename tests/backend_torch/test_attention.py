"""One evaluation of the UNet against diffusers' own, stock or with its IP-Adapter processors.

Values are of the order of 1; limits are on the largest absolute difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0

from ipa.backend.protocol import Branch, ImageTokens
from ipa.backend.schedule import Step
from ipa.backend.text import TextStates
from ipa.prepare.scaling.scales import site_scales
from ipa_torch.backend import TorchBackend
from ipa_torch.files.weights import quiet
from ipa_torch.networks.context import Context
from oracle.pipelines import diffusers_pipeline

BLOCKS = {
    "down": {"block_0": [0.2, 0.9]},
    "mid": 0.5,
    "up": 0.7,
}
# Measured over all cases below: 2.4e-6.
ROUNDING = 6e-6


@dataclass(frozen=True)
class Inputs:
    """What a step of a generation gives the UNet, drawn from a seed."""

    text: list[torch.Tensor]
    latents: torch.Tensor
    pictures: np.ndarray

    @classmethod
    def draw(cls, runtime: TorchBackend, *, rows: int = 2, count: int = 1, seed: int = 0) -> Inputs:
        random = np.random.default_rng(seed)
        draw = random.standard_normal
        width, side = runtime.model.unet.context_width, runtime.model.image_encoder.image_size
        return cls(
            [torch.from_numpy(draw((1, 77, width), np.float32)) for _ in range(rows)],
            torch.from_numpy(draw((count, 4, 8, 12), np.float32)),
            draw((4, 3, side, side), np.float32),
        )

    @property
    def states(self) -> list[TextStates]:
        """The text, as the backend has it."""
        return [TextStates(row) for row in self.text]


def step(timestep: float = 501.0, input_scale: float = 1.0) -> Step:
    return Step(
        timestep=timestep, input_scale=input_scale, denoised_x=1.0, denoised_output=0.0, x_x=1.0
    )


def image_tokens(runtime: TorchBackend, name: str, pixels: np.ndarray) -> ImageTokens:
    return runtime.project(name, *runtime.encode_images(name, pixels))


def ours(
    runtime: TorchBackend,
    inputs: Inputs,
    adapters: Sequence[str] = (),
    pictures: Sequence[Sequence[int]] = (),
    scales: Sequence[Any] = (),
    **changes: float,
) -> np.ndarray:
    """(R, N, C, h, w)."""
    guided = len(inputs.text) == 2
    branches = [
        Branch(name, image_tokens(runtime, name, inputs.pictures[list(indices)]))
        for name, indices in zip(adapters, pictures, strict=True)
    ]
    conditioning = runtime.condition(inputs.states, branches, guided=guided)
    weights = [site_scales(scale, runtime.model.sites) for scale in scales]
    return runtime.predict(inputs.latents, step(**changes), conditioning, weights).numpy()


@torch.no_grad()
def theirs(unet: UNet2DConditionModel, inputs: Inputs, images: Any = None) -> np.ndarray:
    """The rows of all pictures: unconditional first."""
    rows, count = len(inputs.text), len(inputs.latents)
    text = torch.cat([row.repeat(count, 1, 1) for row in inputs.text])
    added = None if images is None else {"image_embeds": images}
    x = torch.cat([inputs.latents] * rows).to(unet.dtype)
    out = unet(x, torch.tensor(501), text.to(unet.dtype), added_cond_kwargs=added).sample
    return out.float().unflatten(0, (rows, count)).numpy()


def stock(folder: Path, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    with quiet():
        return UNet2DConditionModel.from_pretrained(folder / "unet", dtype=dtype).eval()


CASES: dict[str, tuple[tuple[str, ...], tuple[tuple[int, ...], ...], list[Any]]] = {
    "linear": (("linear",), ((0,),), [0.8]),
    "resampler": (("plus",), ((1,),), [1.0]),
    "mlp": (("full",), ((2,),), [0.5]),
    "negative scale": (("linear",), ((0,),), [-0.6]),
    "three pictures": (("linear",), ((0, 1, 2),), [0.8]),
    "two pictures, resampler": (("plus",), ((3, 1),), [0.8]),
    "by block": (("plus",), ((0,),), [BLOCKS]),
    "up only": (("linear",), ((0,),), [{"up": 0.9}]),
    "two adapters": (("linear", "full"), ((0,), (1, 2)), [0.7, 0.4]),
    "three adapters": (
        ("full", "plus", "linear"),
        ((0, 1), (2,), (3,)),
        [{"mid": 0.3}, 0.6, BLOCKS],
    ),
}


@pytest.mark.parametrize(
    ("name", "guided"),
    [*((name, True) for name in CASES), ("linear", False), ("three adapters", False)],
)
def test_adapters(name: str, guided: bool, runtime: TorchBackend, folder: Path) -> None:
    adapters, pictures, scales = CASES[name]
    inputs = Inputs.draw(runtime, rows=1 + guided, count=2, seed=len(name))
    pipe = diffusers_pipeline(folder, [folder / f"{a}.safetensors" for a in adapters])
    pipe.set_ip_adapter_scale(scales)
    given = [torch.from_numpy(inputs.pictures[list(indices)]) for indices in pictures]
    with torch.no_grad():
        images = pipe.prepare_ip_adapter_image_embeds(given, None, "cpu", 2, guided)
    expected = theirs(pipe.unet, inputs, images)
    found = ours(runtime, inputs, adapters, pictures, scales)
    assert np.abs(found - expected).max() < ROUNDING
    assert np.abs(found - ours(runtime, inputs)).max() > 1000 * ROUNDING  # the pictures matter


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_without_pictures_stock_bits(
    dtype: str, tiny: Path, open_reference: Callable[..., TorchBackend]
) -> None:
    """No image prompt, or all of them at λ = 0: diffusers' AttnProcessor2_0, bit for bit."""
    own = open_reference(tiny, "linear", "plus", dtype=dtype)
    unet = stock(tiny, own.unet.dtype)
    for rows in (1, 2):
        for count in (1, 3):
            inputs = Inputs.draw(own, rows=rows, count=count)
            text = [row.to(own.unet.dtype) for row in inputs.text]
            inputs = Inputs(text, inputs.latents, inputs.pictures)
            expected = theirs(unet, inputs)
            assert np.array_equal(ours(own, inputs), expected)
            for zeros in ([0.0, 0], [{"mid": 0.0}, {}], [-0.0, {"up": [0.0]}]):
                off = ours(own, inputs, ("linear", "plus"), ((0,), (1, 2)), zeros)
                assert np.array_equal(off, expected)


def test_zero_at_one_site_skips_that_site_alone(runtime: TorchBackend) -> None:
    """Infinite values where λ = 0 must not reach the output as 0 · ∞."""
    inputs = Inputs.draw(runtime)
    tokens = image_tokens(runtime, "linear", inputs.pictures[:1])
    conditioning = runtime.condition(inputs.states, [Branch("linear", tokens)], guided=True)
    last = len(runtime.model.sites) - 1
    with torch.inference_mode():
        conditioning.images[0][last].values.fill_(torch.inf)
    weights = [[0.5] * last + [0.0]]
    assert runtime.predict(inputs.latents, step(), conditioning, weights).isfinite().all()
    weights = [[0.5] * (last + 1)]
    assert not runtime.predict(inputs.latents, step(), conditioning, weights).isfinite().all()


def test_model_is_never_changed(tiny: Path, open_reference: Callable[..., TorchBackend]) -> None:
    """Loading, using and unloading adapters leaves parameters and processors as they were."""
    own = open_reference(tiny)
    before = dict(own.unet.attn_processors)
    weights = {name: tensor.clone() for name, tensor in own.unet.state_dict().items()}
    other = open_reference(tiny, "linear", "full")
    inputs = Inputs.draw(other)
    ours(other, inputs, ("linear", "full"), ((0,), (1,)), (0.5, 0.5))
    other.unload_adapter("linear")
    other.unload_adapter("full")
    assert other.unet.encoder_hid_proj is None
    assert [type(p) for p in other.unet.attn_processors.values()] == [
        type(p) for p in before.values()
    ]
    assert all(torch.equal(other.unet.state_dict()[name], weights[name]) for name in weights)
    assert np.array_equal(ours(other, inputs), ours(own, inputs))


def test_self_attention_is_the_stock_one_to_the_bit(runtime: TorchBackend) -> None:
    for site in runtime.model.sites:
        module = runtime.unet.get_submodule(site.self_attention[1])
        x = torch.randn(2, 12, site.width, generator=torch.Generator().manual_seed(site.number))
        with torch.inference_mode():
            assert torch.equal(module.processor(module, x), AttnProcessor2_0()(module, x))


def test_keys_and_values_are_projected_once(
    runtime: TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps on one conditioning: nothing of the adapter runs in a step."""
    inputs = Inputs.draw(runtime)
    tokens = image_tokens(runtime, "plus", inputs.pictures[:1])
    conditioning = runtime.condition(inputs.states, [Branch("plus", tokens)], guided=True)
    weights = [site_scales(0.7, runtime.model.sites)]
    first = runtime.predict(inputs.latents, step(), conditioning, weights)
    monkeypatch.setattr(runtime, "adapters", None)
    assert torch.equal(runtime.predict(inputs.latents, step(), conditioning, weights), first)


def test_timestep_and_input_scale(runtime: TorchBackend, folder: Path) -> None:
    """DDIM passes whole timesteps as integers, Euler fractions as floats: one formula serves."""
    inputs, unet = Inputs.draw(runtime, rows=1), stock(folder)
    for timestep in (torch.tensor(501), torch.tensor(501.0), torch.tensor(732.4218)):
        with torch.no_grad():
            out = unet(inputs.latents * 0.25, timestep, inputs.text[0]).sample.numpy()
        found = ours(runtime, inputs, timestep=float(timestep), input_scale=0.25)
        assert np.array_equal(found[0], out)


def test_outside_a_mask_a_site_gives_its_stock_bits(runtime: TorchBackend) -> None:
    """The image branch multiplied by 0 adds nothing to those queries, and half of it by 0.5."""
    inputs = Inputs.draw(runtime)
    tokens = image_tokens(runtime, "linear", inputs.pictures[:1])
    module, length = runtime.attentions[0], 96
    mask = np.repeat(np.array([0.0, 1.0, 0.5], np.float32), length // 3)
    masks = [mask, *[None] * (len(runtime.model.sites) - 1)]
    rows = torch.randn(2, length, runtime.model.sites[0].width)
    found = []
    for branches in ([], [Branch("linear", tokens)], [Branch("linear", tokens, masks)]):
        conditioning = runtime.condition(inputs.states, branches, guided=True)
        scales = [[0.8] * len(masks)] * len(branches)
        with torch.inference_mode():
            context = Context(conditioning.images, scales)
            found.append(module(rows, conditioning.text, ip_hidden_states=context).numpy())
    off, on, masked = (np.split(out, 3, axis=1) for out in found)
    assert np.array_equal(masked[0], off[0]) and np.array_equal(masked[1], on[1])
    assert np.abs(masked[2] - (off[2] + on[2]) / 2).max() < 1e-6  # measured 4e-7
    assert np.abs(masked[0] - on[0]).max() > 0.01
