"""The table of stages: what both backends tell of tiny models has one row each, and no row more."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import Control, ImagePrompt
from ipa.backend.stage_table import MODULES, NETWORKS, STAGES, Component
from ipa.backend.stages import PHASES, explain_phase, explain_stage, kind_of
from ipa.parity import recorded
from oracle import adapters, controlled, models

Open = Callable[..., ipa.Pipeline]
UNETS = {"sd": models.UNET, "xl": models.XL_UNET}


class Names(dict[str, None]):
    """A tap that wants nothing: it keeps the names that it is asked for."""

    def wants(self, stage: str) -> bool:
        self[stage] = None
        return False

    def __call__(self, stage: str, array: object) -> None:
        raise AssertionError(stage)


def with_everything(
    folder: Path, family: str, backend: str, root: Path, open_pipeline: Open
) -> ipa.Pipeline:
    """A pipeline with an adapter of every kind of projector, and a ControlNet."""
    pipe = open_pipeline(folder, backend, "plus", "linear", "full")
    controlled.write_controlnet(root / family, UNETS[family], seed=3)
    pipe.load_controlnet(root / family, name="net")
    for kind in ("faceid", "faceid_plus"):
        tensors = adapters.face_tensors(
            UNETS[family], kind, rank=3, states=models.VISION["hidden_size"], seed=1
        )
        path = models.write_adapter(root / f"{kind}.safetensors", tensors)
        pipe.load_ip_adapter(path, name=kind, kind="faceid-plusv2" if "plus" in kind else None)
    return pipe


def request(pictures: list[Image.Image]) -> dict[str, Any]:
    """A call that uses all of it, from a picture on."""
    a, b, c = (picture.resize((32, 32)) for picture in pictures[:3])
    face = np.eye(512, dtype=np.float32)[3]
    prompts = [
        ImagePrompt(a, adapter="plus", scale=0.7, mask=np.tile(np.arange(32) < 16, (32, 1))),
        ImagePrompt([b, c], adapter="linear", scale=0.5),
        ImagePrompt(b, adapter="full"),
        ImagePrompt(adapter="faceid", face=face),
        ImagePrompt(b, adapter="faceid_plus", face=face),
    ]
    common = {"prompt": "a star", "negative_prompt": "a circle", "guidance_scale": 3.0, "seed": 3}
    size = {"width": 32, "height": 32, "num_inference_steps": 1}
    start = {"image": a, "strength": 1.0, "controls": [Control(c, name="net", scale=0.8)]}
    return {"image_prompts": prompts} | common | size | start


@pytest.fixture(scope="module")
def told(
    tiny: Path,
    tiny_xl: Path,
    tmp_path_factory: pytest.TempPathFactory,
    open_pipeline: Open,
    references: list[Image.Image],
) -> Mapping[str, tuple[str, ...]]:
    """The stages that runs of SD's and SDXL's kind tell, by backend."""
    root = tmp_path_factory.mktemp("told")
    found: dict[str, tuple[str, ...]] = {}
    for backend in ("torch", "mlx"):
        names = Names()
        for family, folder in (("sd", tiny), ("xl", tiny_xl)):
            pipe = with_everything(folder, family, backend, root, open_pipeline)
            pipe(**request(references), tap=names)
        found[backend] = tuple(names)
    return found


def rows(stage: str) -> list[int]:
    bare = stage.partition("@")[0]
    return [number for number, kind in enumerate(STAGES) if kind.explain(bare) is not None]


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_every_stage_has_one_row_and_no_row_is_unused(
    name: str, told: Mapping[str, tuple[str, ...]]
) -> None:
    found = {stage: rows(stage) for stage in told[name]}
    assert {stage: numbers for stage, numbers in found.items() if len(numbers) != 1} == {}
    assert all(kind_of(stage) is STAGES[numbers[0]] for stage, numbers in found.items())
    used = {numbers[0] for numbers in found.values()}
    unused = {kind.pattern for number, kind in enumerate(STAGES) if number not in used}
    assert unused == set()


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_no_row_names_a_network_without_such_stages(
    name: str, told: Mapping[str, tuple[str, ...]]
) -> None:
    paths = {stage.partition("/")[2].partition("@")[0] for stage in told[name]}
    named = {(one.pattern, kind) for kind in MODULES for one in kind.networks}
    used = {
        (network.pattern, kind)
        for path in paths
        if (kind := kind_of(path)) is not None
        for network in kind.networks
        if re.fullmatch(rf"{network.pattern}\.(?:{kind.pattern})", path)
    }
    assert {(pattern, kind.pattern) for pattern, kind in named - used} == set()


def test_every_stage_and_phase_is_explained(told: Mapping[str, tuple[str, ...]]) -> None:
    stages = {*told["torch"], *told["mlx"]}
    said = {stage: explain_stage(stage) for stage in stages}
    assert not [stage for stage, words in said.items() if words.startswith(("a part", "a stage"))]
    assert not [stage for stage in stages if explain_phase(stage).startswith("in ")]
    phases = {stage.partition("/")[0] for stage in stages}
    assert all(any(re.fullmatch(one, phase) for phase in phases) for one, _ in PHASES)


def test_columns_name_what_there_is(told: Mapping[str, tuple[str, ...]]) -> None:
    results = {stage.partition("/")[2] for stage in told["torch"]}
    assert {kind.wave_of for kind in STAGES} - {""} <= results
    assert {name for kind in STAGES for name in kind.swaps} == set(get_args(Component))
    assert {one for kind in MODULES for one in kind.networks} == set(NETWORKS)
    ends = [kind for kind in MODULES if kind.input_of]
    assert all(kind.pattern.endswith(kind.input_of[1].replace(".", r"\.")) for kind in ends)


def test_the_recorded_run_is_of_stages_of_the_table() -> None:
    stages = recorded.recorded().capture.stages
    assert [stage for stage in stages if kind_of(stage) is None] == []
    patterns = (*recorded.WHOLE, *recorded.SKETCHED)
    assert [one for one in patterns if not any(fnmatchcase(n, one) for n in stages)] == []
