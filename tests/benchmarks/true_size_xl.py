"""`make parity`, SDXL: its UNet with a 70-site adapter and its second text tower, float32.

Random weights, every tensor distinct. diffusers and MLX run one after the other in processes of
their own, since the UNet takes 10.3 GB in each: 13 GB of memory, 15 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from oracle.measure import relative

UNET_PARAMETERS = 2_567_463_684
SITES = 70
FEATURE = 1280  # of ViT-bigG's embedding
WIDTH, POOLED = 2048, 1280
TIMESTEP = 501.0
# Rows of guidance that differ in every number.
NUMBERS = ((512, 700, 8, 16, 1024, 896), (1024, 1000, 0, 24, 768, 1152))
SCALES = tuple(0.3 + 0.008 * i for i in range(SITES))

Array = np.ndarray[Any, np.dtype[Any]]


def inputs(side: int) -> dict[str, Array]:
    """What both are given."""
    draw = np.random.default_rng(1)
    return {
        "latents": draw.standard_normal((2, 4, side, side), dtype=np.float32),
        "text": draw.standard_normal((2, 77, WIDTH), dtype=np.float32),
        "pooled": draw.standard_normal((2, POOLED), dtype=np.float32),
        "embedding": draw.standard_normal((2, FEATURE), dtype=np.float32),
        "ids": np.concatenate([draw.integers(0, 49406, 20), [49407], np.zeros(56, np.int64)]),
    }


def reference(folder: Path, side: int) -> None:
    """Write weights, and what diffusers and transformers make of them, unless both are there."""
    if (folder / f"reference-{side}.npz").is_file():
        return
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from benchmarks.true_size import load_adapter
    from ipa_torch.files.weights import quiet
    from oracle import models
    from oracle.true_shapes import config

    given = {name: torch.from_numpy(array) for name, array in inputs(side).items()}
    with quiet(), torch.no_grad():
        tower = CLIPTextModelWithProjection(CLIPTextConfig(**config("sdxl", "text_encoder_2")))
        models.randomize(tower, 5).save_pretrained(folder / "text_encoder_2")
        out = tower(given["ids"][None], output_hidden_states=True)
        found = {"states": out.hidden_states[-2].numpy(), "pooled": out.text_embeds.numpy()}
        del tower, out
        unet: Any = UNet2DConditionModel(**config("sdxl", "unet"))
        assert sum(p.numel() for p in unet.parameters()) == UNET_PARAMETERS
        models.randomize(unet, 6).save_pretrained(folder / "unet")
        sites = models.unet_sites(config("sdxl", "unet"))
        assert len(sites) == SITES
        tensors = models.adapter_tensors("linear", sites, context=WIDTH, feature=FEATURE, seed=11)
        path = models.write_adapter(folder / "base.safetensors", tensors)
        del tensors
        load_adapter(unet, path, SCALES)
        found["unet"] = unet(
            given["latents"],
            torch.tensor(TIMESTEP),
            given["text"],
            added_cond_kwargs={
                "text_embeds": given["pooled"],
                "time_ids": torch.tensor(NUMBERS, dtype=torch.float32),
                "image_embeds": [given["embedding"][:, None, None]],
            },
        ).sample.numpy()
    np.savez(folder / f"reference-{side}.npz", **found)


def ours(folder: Path, side: int) -> None:
    """What MLX makes of the same weights, read through the converters."""
    from ipa_mlx.blas import preload

    preload()
    given = inputs(side)
    found = text_tower(folder, given["ids"])
    np.savez(folder / f"ours-{side}.npz", **found, unet=unet(folder, given))


def text_tower(folder: Path, ids: Array) -> dict[str, Array]:
    """bigG's states and pooled text."""
    import mlx.core as mx

    from ipa.model.clip import ClipTextSpec
    from ipa_convert import read_component
    from ipa_mlx.networks.clip import TextEncoder
    from ipa_mlx.networks.weights import arrays, fill
    from oracle.true_shapes import config

    spec = ClipTextSpec.from_config(config("sdxl", "text_encoder_2"))
    tower = TextEncoder(spec)
    path = folder / "text_encoder_2"
    fill(tower, arrays(read_component("text_encoder_2", path, spec), mx.float32), path.name)
    tokens = mx.array(ids[None])
    *_, states, last = tower.hidden_states(tokens)
    return {"states": np.array(states), "pooled": np.array(tower.pooled(last, tokens))}


def unet(folder: Path, given: dict[str, Array]) -> Array:
    """One evaluation with both rows of guidance, text, sizes and a 70-site image prompt."""
    import mlx.core as mx

    from ipa.backend.text import Sizes, TextStates
    from ipa.model.sites import cross_attention_sites
    from ipa.model.unet import UNetSpec
    from ipa_convert import read_adapter, read_component
    from ipa_mlx.adapters import ImageAdapter
    from ipa_mlx.conditioning import Conditioning
    from ipa_mlx.networks.unet import UNet
    from ipa_mlx.networks.unet_down import added_conditioning
    from ipa_mlx.networks.weights import arrays, fill
    from oracle.true_shapes import config

    spec = UNetSpec.from_config(config("sdxl", "unet"))
    network, sites = UNet(spec), cross_attention_sites(spec)
    fill(network, arrays(read_component("unet", folder / "unet", spec), mx.float32), "unet")
    kind, converted = read_adapter(folder / "base.safetensors", sites, WIDTH)
    adapter = ImageAdapter.build(kind, arrays(converted, mx.float32), "base")
    tokens = adapter.projector(mx.array(given["embedding"]))
    rows = [TextStates(None, mx.array(row[None])) for row in given["pooled"]]
    sizes = [
        Sizes(original_size=n[:2], crops_coords_top_left=n[2:4], target_size=n[4:]) for n in NUMBERS
    ]
    attentions = network.cross_attentions
    conditioning = Conditioning(
        2,
        tuple(a.keys_values(mx.array(given["text"])) for a in attentions),
        (adapter.keys_values(tokens, sites, attentions),),
        added_conditioning(network, rows, sizes),
    )
    x = mx.array(given["latents"].transpose(0, 2, 3, 1).copy())
    output = network(x, TIMESTEP, conditioning.context([SCALES]))
    return np.array(output).transpose(0, 3, 1, 2)


def apart(work: Any, folder: Path, side: int) -> None:
    """In a process of its own, whose memory is all given back."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=(folder, side))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def main() -> None:
    """Print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the model is kept; else temporary")
    parser.add_argument("--side", type=int, default=16, help="latent pixels along a side")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)) / "sdxl"
        folder.mkdir(parents=True, exist_ok=True)
        for work in (reference, ours):
            apart(work, folder, options.side)
        theirs, found = (
            dict(np.load(folder / f"{name}-{options.side}.npz")) for name in ("reference", "ours")
        )
        distances = {name: relative(found[name], theirs[name]) for name in theirs}
    if options.json:
        print(json.dumps({"side": options.side, "mlx to reference": distances}, indent=2))
        return
    for name, distance in distances.items():
        print(f"SDXL {name:21s} mlx to reference {distance:.1e}")


if __name__ == "__main__":
    main()
