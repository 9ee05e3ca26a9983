"""`make parity`: MLX against diffusers and transformers at the true SD1.5 sizes, float32.

Random weights, every tensor distinct, read through the converters. For each component the relative
L2 distance to the reference, and the distance of both to the reference in float64.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from benchmarks import true_models
from benchmarks.true_controlnet import compare_controlnet
from ipa.model.files import STEMS
from ipa.sources.model_folder import open_model_folder
from ipa_torch.files.weights import quiet
from oracle.measure import relative

Array = np.ndarray[Any, np.dtype[Any]]


class Comparison:
    """One folder, opened by MLX's loaders component by component, so that memory stays small."""

    def __init__(self, folder: Path) -> None:
        from ipa_mlx.blas import preload

        self.blas = preload()
        self.folder = folder
        self.model = open_model_folder(folder, name="true size")
        self.rows: list[dict[str, Any]] = []

    def record(
        self, name: str, module: torch.nn.Module, run: Callable[[torch.dtype], Any], ours: Array
    ) -> None:
        """Run the reference in float32 and in float64, and keep the three distances."""
        with torch.no_grad():
            single = run(torch.float32).numpy()
            module.double()
            exact = run(torch.float64).numpy()
        self.rows.append(
            {
                "component": name,
                "parameters": sum(p.numel() for p in module.parameters()),
                "mlx to reference": relative(ours, single),
                "mlx to float64": relative(ours, exact),
                "reference to float64": relative(single, exact),
            }
        )

    def module(self, kind: type, name: str, spec: Any) -> Any:
        """An MLX module filled through the converters."""
        import mlx.core as mx

        from ipa_convert import read_component
        from ipa_mlx.networks.weights import arrays, fill

        assert name in STEMS
        module = kind(spec)
        fill(module, arrays(read_component(name, self.folder / name, spec), mx.float32), name)
        return module


@contextmanager
def freed() -> Iterator[None]:
    """Give memory back after a component."""
    import mlx.core as mx

    yield
    gc.collect()
    mx.clear_cache()


def nhwc(array: Array) -> Any:
    import mlx.core as mx

    return mx.array(np.ascontiguousarray(array.transpose(0, 2, 3, 1)))


def nchw(array: Any) -> Array:
    return np.array(array).transpose(0, 3, 1, 2)


def compare_unet(c: Comparison, side: int) -> None:
    """One evaluation with both rows of guidance, text and a 16-site image prompt."""
    import mlx.core as mx

    from ipa_convert import read_adapter
    from ipa_mlx.adapters import ImageAdapter
    from ipa_mlx.conditioning import Conditioning
    from ipa_mlx.networks.unet import UNet
    from ipa_mlx.networks.weights import arrays

    draw = np.random.default_rng(1)
    x = draw.standard_normal((2, 4, side, side), dtype=np.float32)
    text = draw.standard_normal((2, 77, 768), dtype=np.float32)
    embedding = draw.standard_normal((2, 1, 1024), dtype=np.float32)
    unet = c.module(UNet, "unet", c.model.unet)
    path = c.folder / "base.safetensors"
    spec, converted = read_adapter(path, c.model.sites, 768)
    adapter = ImageAdapter.build(spec, arrays(converted, mx.float32), path.name)
    tokens = adapter.projector(mx.array(embedding[:, 0]))
    attentions = unet.cross_attentions
    conditioning = Conditioning(
        2,
        tuple(a.keys_values(mx.array(text)) for a in attentions),
        (adapter.keys_values(tokens, c.model.sites, attentions),),
    )
    scales = tuple(0.3 + 0.04 * i for i in range(len(attentions)))
    ours = nchw(unet(nhwc(x), 501.0, conditioning.context([scales])))
    del unet, adapter, conditioning
    reference = UNet2DConditionModel.from_pretrained(c.folder / "unet")
    count = sum(p.numel() for p in reference.parameters())
    assert count == true_models.UNET_PARAMETERS, count
    load_adapter(reference, path, scales)

    def run(dtype: torch.dtype) -> torch.Tensor:
        cast = [torch.from_numpy(a).to(dtype) for a in (x, text, embedding)]
        return reference(
            cast[0],
            torch.tensor(501.0),
            cast[1],
            added_cond_kwargs={"image_embeds": [cast[2][:, None]]},
        ).sample

    c.record("UNet + base adapter", reference, run, ours)


def load_adapter(unet: UNet2DConditionModel, path: Path, scales: tuple[float, ...]) -> None:
    """diffusers' own loading of an adapter into a bare UNet, with λ per site by our numbering."""
    import safetensors.torch

    flat = safetensors.torch.load_file(path)
    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in flat.items():
        part, _, rest = key.partition(".")
        nested[part][rest] = value
    unet._load_ip_adapter_weights([nested])
    sites = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for name, scale in zip(sites, scales, strict=True):
        unet.attn_processors[name].scale = [scale]


def compare_vae(c: Comparison, side: int) -> None:
    """Decoder and encoder."""
    from ipa_mlx.networks.vae import Vae

    draw = np.random.default_rng(2)
    latents = draw.standard_normal((1, 4, side, side), dtype=np.float32)
    pixels = draw.uniform(-1, 1, (1, 3, 8 * side, 8 * side)).astype(np.float32)
    vae = c.module(Vae, "vae", c.model.vae)
    decoded, encoded = nchw(vae.decode(nhwc(latents))), nchw(vae.encode(nhwc(pixels))[0])
    del vae
    factor = true_models.VAE["scaling_factor"]
    for name, ours, given, run in (
        ("VAE decoder", decoded, latents / factor, lambda vae, x: vae.decode(x).sample),
        ("VAE encoder", encoded, pixels, lambda vae, x: vae.encode(x).latent_dist.mean * factor),
    ):
        reference = AutoencoderKL.from_pretrained(c.folder / "vae")
        c.record(
            name,
            reference,
            lambda dtype, r=reference, x=given, f=run: f(r, torch.from_numpy(x).to(dtype)),
            ours,
        )


def compare_text(c: Comparison) -> None:
    """ViT-L's text tower on 77 tokens."""
    import mlx.core as mx

    from ipa_mlx.networks.clip import TextEncoder

    ids = np.random.default_rng(3).integers(0, 49408, (1, 77))
    ours = np.array(c.module(TextEncoder, "text_encoder", c.model.text_encoder)(mx.array(ids)))
    reference = CLIPTextModel.from_pretrained(c.folder / "text_encoder")
    c.record(
        "CLIP ViT-L text",
        reference,
        lambda _: reference(torch.from_numpy(ids)).last_hidden_state,
        ours,
    )


def compare_vision(c: Comparison) -> None:
    """ViT-H: pooled embedding and penultimate states; and the plus resampler on those states."""
    from ipa_mlx.networks.clip import VisionEncoder

    pixels = np.random.default_rng(4).standard_normal((1, 3, 224, 224), dtype=np.float32)
    encoder = c.module(VisionEncoder, "image_encoder", c.model.image_encoder)
    embedding, states = (
        np.array(encoder.embedding(nhwc(pixels))),
        np.array(encoder.states(nhwc(pixels))),
    )
    del encoder
    for name, ours, pick in (
        ("ViT-H embedding", embedding, lambda out: out.image_embeds),
        ("ViT-H penultimate states", states, lambda out: out.hidden_states[-2]),
    ):
        reference = CLIPVisionModelWithProjection.from_pretrained(c.folder / "image_encoder")
        c.record(
            name,
            reference,
            lambda dtype, r=reference, p=pick: p(
                r(torch.from_numpy(pixels).to(dtype), output_hidden_states=True)
            ),
            ours,
        )
        del reference
        gc.collect()


def compare_resampler(c: Comparison) -> None:
    """The plus projector against diffusers' own."""
    import mlx.core as mx

    from ipa_convert import read_adapter
    from ipa_mlx.adapters import ImageAdapter
    from ipa_mlx.networks.weights import arrays

    states = np.random.default_rng(5).standard_normal((1, 257, 1280), dtype=np.float32)
    path = c.folder / "plus.safetensors"
    spec, converted = read_adapter(path, c.model.sites, 768)
    adapter = ImageAdapter.build(spec, arrays(converted, mx.float32), path.name)
    ours = np.array(adapter.projector(mx.array(states)))
    import safetensors.torch

    weights = {
        key.removeprefix("image_proj."): value
        for key, value in safetensors.torch.load_file(path).items()
        if key.startswith("image_proj.")
    }
    with torch.device("meta"):
        unet = UNet2DConditionModel(**true_models.UNET)
    reference = unet._convert_ip_adapter_image_proj_to_diffusers(weights, low_cpu_mem_usage=False)
    c.record(
        "plus resampler",
        reference,
        lambda dtype: reference(torch.from_numpy(states).to(dtype)),
        ours,
    )


def main() -> None:
    """Build (or take) the folder, compare every component, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder made by an earlier run")
    parser.add_argument("--side", type=int, default=16, help="latent pixels along a side")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with quiet(), tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "model_index.json").is_file():
            true_models.build(folder)
        c = Comparison(folder)
        for part in (
            lambda: compare_resampler(c),
            lambda: compare_text(c),
            lambda: compare_vae(c, options.side),
            lambda: compare_vision(c),
            lambda: compare_unet(c, options.side),
            lambda: compare_controlnet(c, options.side),
        ):
            with freed():
                part()
    if options.json:
        print(json.dumps({"blas": c.blas, "side": options.side, "rows": c.rows}, indent=2))
        return
    print(f"float32, latents {options.side} × {options.side}, BLAS {c.blas or 'of the MLX wheel'}")
    for row in c.rows:
        numbers = "  ".join(f"{k} {v:.1e}" for k, v in row.items() if "to" in k.split())
        print(f"{row['component']:26s}{row['parameters']:>13,}  {numbers}")


if __name__ == "__main__":
    main()
