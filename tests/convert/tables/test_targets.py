"""Every tensor has its own place in our MLX modules, and every place is filled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from ipa.errors import CheckpointError
from ipa.model.adapter import AdapterSpec
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa.model.controlnet import ControlNetSpec
from ipa.model.sites import cross_attention_sites
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec
from ipa_convert.containers.checkpoint import Checkpoint
from ipa_convert.containers.dtypes import Array
from ipa_convert.tables import clip_text, clip_vision, controlnet, ip_adapter, unet, vae
from ipa_convert.tables.layout import Tensor
from ipa_convert.tables.matching import convert
from ipa_convert.tables.rules import Rename
from ipa_convert.tables.table import Table
from ipa_mlx.networks.clip import TextEncoder, VisionEncoder
from ipa_mlx.networks.projectors import PROJECTORS
from ipa_mlx.networks.unet import UNet
from ipa_mlx.networks.vae import Vae
from oracle import controlnets, models

UNET = UNetSpec.from_config(models.UNET)
LINEAR_UNET = UNetSpec.from_config(models.UNET | {"use_linear_projection": True})
VAE = VaeSpec.from_config(models.VAE)
PLAIN_VAE = VaeSpec.from_config(
    models.VAE
    | {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False}
)
TEXT = ClipTextSpec.from_config(models.TEXT)
PROJECTED_TEXT = ClipTextSpec.from_config(
    models.TEXT | {"architectures": ["CLIPTextModelWithProjection"]}
)
VISION = ClipVisionSpec.from_config(models.VISION)
SITES = cross_attention_sites(UNET)
SHARED = {"feature_width": 30, "context_width": 40}
ADAPTERS = {
    "linear": AdapterSpec(projector="linear", feature="embedding", tokens=3, **SHARED),
    "mlp": AdapterSpec(projector="mlp", feature="states", tokens=0, width=50, **SHARED),
    "resampler": AdapterSpec(
        projector="resampler", feature="states", tokens=5, width=32, layers=3, heads=2, **SHARED
    ),
}


@dataclass(frozen=True)
class Nothing:
    """A stored tensor without a file."""

    tensor: Tensor
    dtype: str = "F32"
    where: str = "nowhere"

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def array(self) -> Array:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError


TABLES = {
    "unet": unet.table(UNET),
    "vae": vae.table(VAE),
    "text": clip_text.table(TEXT),
    "projected text": clip_text.table(PROJECTED_TEXT),
    "vision": clip_vision.table(VISION),
    "controlnet": controlnet.table(ControlNetSpec.from_config(controlnets.CONFIGS["SDXL"])),
    **{name: ip_adapter.table(spec, SITES) for name, spec in ADAPTERS.items()},
}


@pytest.mark.parametrize(
    ("table", "module"),
    [
        (unet.table(UNET), lambda: UNet(UNET)),
        (unet.table(LINEAR_UNET), lambda: UNet(LINEAR_UNET)),
        (vae.table(VAE), lambda: Vae(VAE)),
        (vae.table(PLAIN_VAE), lambda: Vae(PLAIN_VAE)),
        (clip_text.table(TEXT), lambda: TextEncoder(TEXT)),
        (clip_text.table(PROJECTED_TEXT), lambda: TextEncoder(PROJECTED_TEXT)),
        (clip_vision.table(VISION), lambda: VisionEncoder(VISION)),
    ],
)
def test_targets_are_the_modules_parameters(table: Table, module: Callable[[], nn.Module]) -> None:
    parameters = {name: array.shape for name, array in tree_flatten(module().parameters())}
    assert {table.target(t): t.target_shape for t in table.tensors} == parameters


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapter_targets(kind: str) -> None:
    projector = tree_flatten(PROJECTORS[kind](ADAPTERS[kind]).parameters())
    expected: dict[str, Any] = {f"projector.{name}": array.shape for name, array in projector}
    for site in SITES:
        for part in ("to_k", "to_v"):
            expected[f"sites.{site.path}.{part}.weight"] = (site.width, 40)
    table = TABLES[kind]
    assert {table.target(t): t.target_shape for t in table.tensors} == expected


@pytest.mark.parametrize("name", TABLES)
def test_no_two_tensors_share_a_target(name: str) -> None:
    table = TABLES[name]
    assert len({table.target(tensor) for tensor in table.tensors}) == len(table.tensors)


@pytest.mark.parametrize("converted", [False, True])
def test_a_table_that_maps_two_tensors_to_one_name(converted: bool) -> None:
    tensors = tuple(Tensor(name, (2,)) for name in ("a.weight", "b.weight"))
    table = Table(title="test", tensors=tensors, renames=(Rename("*.weight", "c.weight"),))
    with pytest.raises(CheckpointError, match=r"1 landing on one name: c\.weight"):
        convert(Checkpoint("here", {}, converted), table)


@pytest.mark.parametrize("name", TABLES)
def test_no_rule_is_dead(name: str) -> None:
    """Every renaming is used, except those for a projection that this spec has not."""
    table = TABLES[name]
    names = {tensor.name for tensor in table.tensors}
    used: set[Rename] = set()
    for spelling in names:
        for rule in table.renames:
            renamed = rule.apply(spelling)
            if renamed != spelling:
                used.add(rule)
            spelling = renamed
    spare = {r.source for r in table.renames if r not in used}
    assert spare <= ({"text_projection.weight"} if name == "text" else set())


@pytest.mark.parametrize("name", TABLES)
def test_canonical_names_are_neither_aliases_nor_dropped(name: str) -> None:
    table = TABLES[name]
    for tensor in table.tensors:
        assert [name for name, _ in table.canonical(tensor.name, Nothing(tensor))] == [tensor.name]
        assert not any(drop.matches(tensor.name) for drop in table.drops)


@pytest.mark.parametrize("name", TABLES)
def test_drops_give_their_reason(name: str) -> None:
    assert all(len(drop.reason) > 20 for drop in TABLES[name].drops)


@pytest.mark.parametrize(
    ("source", "target", "name", "renamed"),
    [
        ("**.to_out.0.*", "**.to_out.*", "a.b.to_out.0.bias", "a.b.to_out.bias"),
        ("**.to_out.0.*", "**.to_out.*", "a.xto_out.0.bias", None),
        ("**.to_out.0.*", "**.to_out.*", "a.to_out.01.bias", None),
        ("**.to_out.0.*", "**.to_out.*", "a.to_out.0.b.c", None),
        ("**.to_out.0.*", "**.to_out.*", "to_out.0.bias", None),
        ("blocks.1.*", "b.1.*", "blocks.10.x", None),
        ("blocks.#.*", "b.#.*", "blocks.10.x", "b.10.x"),
        ("blocks.#.*", "b.#.*", "blocks.١.x", None),  # a digit, but not one of ours
        ("a.b", "c", "aXb", None),
        ("k.weight", "key", "to_k.weight", None),
        ("layers.#.0.*.weight", "l.#.*.w", "layers.3.0.to_q.weight", "l.3.to_q.w"),
    ],
)
def test_rules_match_whole_components(
    source: str, target: str, name: str, renamed: str | None
) -> None:
    assert Rename(source, target).apply(name) == (renamed or name)
