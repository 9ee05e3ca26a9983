"""Networks of any small config: the tables, the original spelling, and the way there and back.

Every value of a network differs from every other, so that no swap of two tensors stays unseen. The
judges are the modules of diffusers and transformers, and diffusers' own readers of single files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa.model.controlnet import ControlNetSpec
from ipa.model.sites import cross_attention_sites
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec
from ipa_convert.containers.checkpoint import Checkpoint
from ipa_convert.tables import clip_text, clip_vision, controlnet, ip_adapter, ldm, unet, vae
from ipa_convert.tables.adapter_spellings import aliases
from ipa_convert.tables.converted import Converted
from ipa_convert.tables.matching import convert
from ipa_convert.tables.table import Table
from ipa_convert.writing.rows import rows
from oracle import adapters, clip_spellings, models
from oracle.containers import array_bits

Arrays = dict[str, np.ndarray]
Config = dict[str, Any]
FEW, MORE = (settings(max_examples=count, deadline=None) for count in (12, 25))
UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."


@dataclass(frozen=True)
class Held:
    """A tensor of a checkpoint that lies in memory."""

    name: str
    values: np.ndarray
    dtype: str = "F32"
    where: str = "memory"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def array(self) -> np.ndarray:
        return self.values

    def apart(self) -> Held:
        return self

    def release(self) -> None:
        pass


def held(arrays: Mapping[str, np.ndarray], *, converted: bool = False) -> Checkpoint:
    tensors = {name: Held(name, values) for name, values in arrays.items()}
    return Checkpoint("memory", tensors, converted=converted)


def distinct(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Values that occur once: float32 counts to 2**24."""
    found, count = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        found[name] = np.arange(count, count + size, dtype=np.float32).reshape(shape)
        count += size
    assert count < 1 << 24
    return found


def meta(make: Callable[[], Any]) -> tuple[dict[str, tuple[int, ...]], Any]:
    """A module's names and shapes, and the module, which takes no memory."""
    with torch.device("meta"):
        module = make()
    return {name: tuple(v.shape) for name, v in module.state_dict().items()}, module


def assert_same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        assert np.array_equal(array_bits(found[name]), array_bits(np.ascontiguousarray(values)))


def in_mlx(converted: Converted) -> Arrays:
    return {name: tensor.array() for name, tensor in converted.items()}


def check_table(table: Table, shapes: Mapping[str, tuple[int, ...]]) -> None:
    assert len(table.tensors) == len(shapes), "a name occurs twice"
    assert {tensor.name: tensor.shape for tensor in table.tensors} == shapes
    targets = {table.target(tensor) for tensor in table.tensors}
    assert len(targets) == len(shapes), "two land on one name"


def check_ways(table: Table, arrays: Arrays) -> Arrays:
    """Convert, write in each layout, read that again; what MLX gets."""
    converted = convert(held(arrays), table)
    found = in_mlx(converted)
    written = {row.name: row.array() for row in rows(converted, None, "diffusers")}
    assert_same(written, arrays)
    assert_same(in_mlx(convert(held(written), table)), found)
    ours = {row.name: row.array() for row in rows(converted, None, "mlx")}
    assert_same(ours, found)
    again = convert(held(ours, converted=True), table)
    assert_same(in_mlx(again), found)
    assert_same({name: values for name, _, values in again.originals()}, arrays)
    return found


def check_spelling(table: Table, spelled: Arrays, count: int, found: Arrays) -> None:
    """Another spelling has as many tensors, and MLX gets the same."""
    assert len(spelled) == count
    assert_same(in_mlx(convert(held(spelled), table)), found)


def check_numbers(names: Iterable[str]) -> None:
    """The original's blocks are sequences of modules, numbered without a gap.

    diffusers' readers do not mind where an upsampler stands, and know one length of hint block.
    """
    places: dict[str, set[int]] = defaultdict(set)
    for name in names:
        parts = name.split(".")
        if parts[0] in {"input_blocks", "output_blocks", "zero_convs"}:
            places[parts[0]].add(int(parts[1]))
            places[f"{parts[0]}.{parts[1]}"].add(int(parts[2]))
        elif parts[0] == "middle_block":
            places[parts[0]].add(int(parts[1]))
        elif parts[0] == "input_hint_block":  # an activation after every convolution
            number, rest = divmod(int(parts[1]), 2)
            assert not rest
            places[parts[0]].add(number)
    for block, numbers in places.items():
        assert numbers == set(range(len(numbers))), block


CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"


@st.composite
def halves(draw: st.DrawFn, fewest_transformers: int, *, uniform: bool) -> Config:
    """What UNets and ControlNets share; `uniform`: every level has as many layers."""
    levels = draw(st.integers(1, 4))

    def per_level(values: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(values, min_size=levels, max_size=levels)))

    layers = st.integers(1, 3)
    config = {
        "block_out_channels": per_level(st.sampled_from([4, 8, 12])),
        "down_block_types": per_level(st.sampled_from([CROSS_DOWN, "DownBlock2D"])),
        "layers_per_block": draw(layers) if uniform else per_level(layers),
        "transformer_layers_per_block": per_level(st.integers(fewest_transformers, 2)),
        "attention_head_dim": per_level(st.sampled_from([1, 2, 4])),
        "cross_attention_dim": draw(st.integers(1, 9)),
        "norm_num_groups": draw(st.sampled_from([1, 2, 4])),
        "use_linear_projection": draw(st.booleans()),
        "in_channels": draw(st.integers(1, 9)),
    }
    if draw(st.booleans()):
        width = draw(st.integers(1, 3)) * 2
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": width,
            "projection_class_embeddings_input_dim": 6 * width + draw(st.integers(1, 9)),
        }
    return config


@st.composite
def unets(draw: st.DrawFn) -> Config:
    config = draw(halves(1, uniform=draw(st.booleans())))
    levels = len(config["block_out_channels"])
    kinds = st.lists(st.sampled_from([CROSS_UP, "UpBlock2D"]), min_size=levels, max_size=levels)
    return config | {"up_block_types": tuple(draw(kinds)), "out_channels": draw(st.integers(1, 8))}


@FEW
@given(unets())
def test_any_unet(config: Config) -> None:
    shapes, module = meta(lambda: UNet2DConditionModel(**config))
    spec = UNetSpec.from_config(dict(module.config))
    table = unet.table(spec)
    check_table(table, shapes)
    processors = [name.removesuffix(".processor") for name in module.attn_processors]
    sites = cross_attention_sites(spec)
    assert [site.path for site in sites] == [name for name in processors if name.endswith("attn2")]
    for site in sites:
        assert processors[site.number] == site.path
        assert module.get_submodule(site.path).to_q.out_features == site.width
        number, path = site.self_attention
        assert processors[number] == path
    arrays = distinct(shapes)
    found = check_ways(table, arrays)
    names = ldm.unet_names(shapes, spec)
    check_numbers(names)
    for prefix in ("", UNET_PREFIX):
        spelled = {prefix + original: arrays[name] for original, name in names.items()}
        check_spelling(table, spelled, len(shapes), found)
    if isinstance(config["layers_per_block"], int):  # diffusers' reader knows no other
        assert_same(convert_ldm_unet_checkpoint(spelled, dict(module.config)), arrays)


@FEW
@given(unets(), st.sampled_from(["linear", "mlp"]), st.integers(1, 9))
def test_any_adapter(config: Config, kind: str, feature: int) -> None:
    """Of a UNet, under two prefixes; diffusers tells which site a number is."""
    sites = cross_attention_sites(UNetSpec.from_config(config))
    numbers, context = adapters.sites(config), config["cross_attention_dim"]
    made = models.adapter_tensors(kind, numbers, context=context, feature=feature)
    arrays = distinct({name: tuple(value.shape) for name, value in made.items()})
    checkpoint = held(arrays)
    table = ip_adapter.table(ip_adapter.detect(checkpoint), sites, aliases(checkpoint))
    check_table(table, {name: values.shape for name, values in arrays.items()})
    found = check_ways(table, arrays)
    prefixes = {"image_proj": "image_proj_model", "ip_adapter": "adapter_modules"}
    trained = {}  # as the training script saves it
    for name, values in arrays.items():
        part, _, rest = name.partition(".")
        trained[f"{prefixes[part]}.{rest}"] = values
    check_spelling(table, trained, len(arrays), found)
    tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
    loaded = adapters.load_in_diffusers(config, tensors).sites
    assert len(loaded) == 2 * len(sites) == 2 * len(numbers)
    for (path, part), value in loaded.items():
        assert np.array_equal(found[f"sites.{path}.{part}.weight"], value.numpy())


@st.composite
def control_nets(draw: st.DrawFn) -> Config:
    count = draw(st.sampled_from([4, 1, 2, 3]))
    widths = st.lists(st.integers(1, 5), min_size=count, max_size=count)
    return draw(halves(0, uniform=True)) | {
        "conditioning_channels": draw(st.integers(1, 4)),
        "conditioning_embedding_out_channels": tuple(draw(widths)),
    }


@FEW
@given(control_nets())
def test_any_controlnet(config: Config) -> None:
    shapes, module = meta(lambda: ControlNetModel(**config))
    spec = ControlNetSpec.from_config(dict(module.config))
    table = controlnet.table(spec)
    check_table(table, shapes)
    arrays = distinct(shapes)
    found = check_ways(table, arrays)
    names = ldm.controlnet_names(shapes, spec)
    check_numbers(names)
    for prefix in ("", "control_model."):
        spelled = {prefix + original: arrays[name] for original, name in names.items()}
        check_spelling(table, spelled, len(shapes), found)
    if spec.addition is None and len(spec.embedding_channels) == 4:  # diffusers' knows no other
        assert_same(convert_controlnet_checkpoint(spelled, dict(module.config)), arrays)


@st.composite
def vaes(draw: st.DrawFn) -> Config:
    levels = draw(st.integers(1, 4))
    widths = st.lists(st.sampled_from([2, 4, 6]), min_size=levels, max_size=levels)
    return {
        "in_channels": draw(st.integers(1, 4)),
        "out_channels": draw(st.integers(1, 4)),
        "block_out_channels": tuple(draw(widths)),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": draw(st.integers(1, 3)),
        "latent_channels": draw(st.integers(1, 16)),
        "norm_num_groups": draw(st.sampled_from([1, 2])),
        "mid_block_add_attention": draw(st.booleans()),
        "use_quant_conv": draw(st.booleans()),
        "use_post_quant_conv": draw(st.booleans()),
    }


@MORE
@given(vaes())
def test_any_vae(config: Config) -> None:
    shapes, module = meta(lambda: AutoencoderKL(**config))
    spec = VaeSpec.from_config(dict(module.config))
    table = vae.table(spec)
    check_table(table, shapes)
    arrays = distinct(shapes)
    found = check_ways(table, arrays)
    names = ldm.vae_names(shapes, spec)
    for prefix in ("", VAE_PREFIX):
        spelled = {prefix + original: arrays[name] for original, name in names.items()}
        check_spelling(table, spelled, len(shapes), found)
    for name, values in spelled.items():  # its attention is made of 1×1 convolutions
        if ".attn_1." in name and values.ndim == 2:
            spelled[name] = values[:, :, None, None]
    check_spelling(table, spelled, len(shapes), found)
    assert_same(convert_ldm_vae_checkpoint(spelled, dict(module.config)), arrays)


@st.composite
def towers(draw: st.DrawFn) -> Config:
    heads = draw(st.integers(1, 3))
    return {
        "hidden_size": heads * draw(st.sampled_from([2, 4])),
        "num_attention_heads": heads,
        "num_hidden_layers": draw(st.integers(1, 3)),
        "intermediate_size": draw(st.integers(1, 9)),
        "projection_dim": draw(st.integers(1, 9)),
    }


def as_open_clip(arrays: Arrays) -> Arrays:
    """By the tests' own writer, which is held to OpenCLIP's network elsewhere."""
    tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
    spelled = clip_spellings.to_open_clip(tensors)
    return {name: value.contiguous().numpy() for name, value in spelled.items()}


def joined(layers: int) -> int:
    """How many fewer tensors there are with queries, keys and values in one."""
    return 2 * 2 * layers


@MORE
@given(towers(), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_any_text_encoder(tower: Config, words: int, positions: int, projected: bool) -> None:
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    config = CLIPTextConfig(
        **tower | {"vocab_size": words, "max_position_embeddings": positions},
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    own, module = meta(lambda: kind(config))
    # transformers from 5.6 saves the class without projection without the prefix.
    shapes = {n if projected else f"text_model.{n}": shape for n, shape in own.items()}
    named = module.config.to_dict() | {"architectures": [kind.__name__]}
    table = clip_text.table(ClipTextSpec.from_config(named))
    check_table(table, shapes)
    arrays = distinct(shapes)
    found = check_ways(table, arrays)
    check_spelling(
        table, {n.removeprefix("text_model."): v for n, v in arrays.items()}, len(shapes), found
    )
    count = len(shapes) - joined(tower["num_hidden_layers"])
    check_spelling(table, as_open_clip(arrays), count, found)


@MORE
@given(towers(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_any_image_encoder(tower: Config, patch: int, patches: int, channels: int) -> None:
    config = CLIPVisionConfig(
        **tower | {"patch_size": patch, "image_size": patch * patches, "num_channels": channels}
    )
    shapes, module = meta(lambda: CLIPVisionModelWithProjection(config))
    table = clip_vision.table(ClipVisionSpec.from_config(module.config.to_dict()))
    check_table(table, shapes)
    arrays = distinct(shapes)
    found = check_ways(table, arrays)
    count = len(shapes) - joined(tower["num_hidden_layers"])
    check_spelling(table, as_open_clip(arrays), count, found)
