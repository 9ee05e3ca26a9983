"""What must hold of ControlNets and of T2I-Adapters alike, bit for bit, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import ipa
from ipa import CheckpointError, Control, NumericalError
from ipa_convert import convert_component
from oracle import controlled, controlnets, models, t2i_adapters
from oracle.workshop import Workshop

CALL: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "width": 64,
    "height": 48,
    "output_type": "latent",
}
EDGES = Image.fromarray(controlled.edges((64, 48), 1))
FILE = "diffusion_pytorch_model.safetensors"


Source = tuple[Path, dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """A kind of control.

    Attributes:
        word: What follows "load_" in its method.
        unet: Of the model that it is for.
        write: Writes one with random weights to a folder.
        spell: Writes one's spellings into a folder; gives the arguments that load each.
        needs_config: Whether a file is told its config, which otherwise is read beside it.
        results: How many weights it takes.
        last: The tensor that the last result alone rests on.
        named: One of its tensors.
        unknown: A name of none.
    """

    word: str
    unet: Mapping[str, Any]
    write: Callable[[Path], object]
    spell: Callable[[Path, Path], list[Source]]
    needs_config: bool
    results: int
    last: str
    named: str
    unknown: str

    def load(self, pipe: ipa.Pipeline, source: Path, **options: Any) -> str:
        return str(getattr(pipe, f"load_{self.word}")(source, **options))

    def inside(self, folder: Path) -> Source:
        """The file of a folder."""
        return folder / FILE, {"config": folder / "config.json"} if self.needs_config else {}

    def unload(self, pipe: ipa.Pipeline, *names: str) -> None:
        getattr(pipe, f"unload_{self.word}")(*names)


def nets(net: Path, root: Path) -> list[Source]:
    """A file in diffusers' naming and in lllyasviel's, with the base beside it."""
    tensors = safetensors.torch.load_file(net / FILE)
    original = controlnets.original(tensors, "control_model.") | controlnets.base_model()
    safetensors.torch.save_file(tensors, root / "plain.safetensors")
    torch.save({"state_dict": original}, root / "original.pth")
    config = {"config": net / "config.json"}
    return [(root / name, config) for name in ("plain.safetensors", "original.pth")]


def adapters(folder: Path, root: Path) -> list[Source]:
    """A file in diffusers' naming and in TencentARC's, and a folder with a pickle."""
    net = t2i_adapters.read([folder])[0]
    (root / "plain.safetensors").write_bytes((folder / FILE).read_bytes())
    torch.save(t2i_adapters.original(net), root / "original.pth")
    (root / "pickled").mkdir()
    (root / "pickled" / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(net.state_dict(), root / "pickled" / "diffusion_pytorch_model.bin")
    return [
        (root, {"weight_name": "plain.safetensors"}),
        (root, {"weight_name": "original.pth"}),
        (root, {"subfolder": "pickled"}),
        (root, {"subfolder": "pickled", "weight_name": "diffusion_pytorch_model.bin"}),
    ]


KINDS = {
    "ControlNet": Kind(
        word="controlnet",
        unet=models.UNET,
        write=lambda place: controlled.write_controlnet(place, models.UNET, seed=9),
        spell=nets,
        needs_config=True,
        results=10,  # nine on the way down, and the middle's
        last="controlnet_mid_block.weight",
        named="controlnet_down_blocks.3.weight",
        unknown="controlnet_down_blocks.9.weight",
    ),
    "T2I-Adapter": Kind(
        word="t2i_adapter",
        unet=t2i_adapters.UNET,
        write=lambda place: t2i_adapters.write_t2i_adapter(place, 9, **t2i_adapters.FULL),
        spell=adapters,
        needs_config=False,
        results=4,
        last="adapter.body.3.resnets.1.block2.bias",
        named="adapter.body.1.in_conv.weight",
        unknown="adapter.body.0.in_conv.weight",
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def place(kind: Kind, workshop: Workshop) -> Path:
    """The control's folder, "edges", beside its model."""
    tiny = models.Tiny(unet=dict(kind.unet))
    root = workshop.made(
        f"control kinds/{kind.word}", lambda path: models.build_folder(path, tiny, seed=8)
    )
    if not (root / "edges").exists():
        kind.write(root / "edges")
    return root / "edges"


@pytest.fixture(scope="module")
def pipe(
    backend: str, kind: Kind, place: Path, open_pipeline: Callable[..., ipa.Pipeline]
) -> ipa.Pipeline:
    pipe = open_pipeline(place.parent, backend)
    kind.load(pipe, place)
    return pipe


def latents(pipe: ipa.Pipeline, *controls: Control, **changes: Any) -> np.ndarray:
    return pipe("a star", controls=controls, **(CALL | changes)).latents


def changed(place: Path, to: Path, tensors: Mapping[str, torch.Tensor | None]) -> Path:
    """A copy with other tensors; None takes one away."""
    to.mkdir(exist_ok=True)
    (to / "config.json").write_bytes((place / "config.json").read_bytes())
    found = safetensors.torch.load_file(place / FILE) | tensors
    kept = {name: tensor for name, tensor in found.items() if tensor is not None}
    safetensors.torch.save_file(kept, to / FILE)
    return to


def test_off_is_the_base_model_bit_for_bit(own: ipa.Pipeline, kind: Kind, place: Path) -> None:
    base, whole = latents(own), latents(own, Control(EDGES))
    assert not np.array_equal(whole, base)
    for off in (
        Control(EDGES, scale=0),
        Control(EDGES, scale=[0.0] * kind.results),
        Control(EDGES, start=0.5, end=0.5),
    ):
        assert np.array_equal(latents(own, off), base)
    kind.load(own, place, name="again")
    kind.unload(own)
    assert np.array_equal(latents(own), base)
    kind.load(own, place)
    kind.load(own, place, name="again")
    kind.unload(own, "again")
    assert np.array_equal(latents(own, Control(EDGES)), whole)


def test_equal_requests_are_equal_bit_for_bit(pipe: ipa.Pipeline, kind: Kind) -> None:
    whole = latents(pipe, Control(EDGES, scale=0.8))
    assert np.array_equal(latents(pipe, Control(EDGES, scale=[0.8] * kind.results)), whole)
    half = Control(EDGES, name="edges", scale=0.4)
    assert np.array_equal(latents(pipe, half, half), whole)
    result = pipe("a star", controls=Control(EDGES, scale=0.8), **CALL)
    (described,) = json.loads(json.dumps(result.info["request"]["controls"]))
    assert (described["control"], described["file"], described["scale"]) == ("edges", "edges", 0.8)
    assert described["kind"] == kind.word


def test_a_weight_of_zero_is_left_out(
    own: ipa.Pipeline, kind: Kind, place: Path, tmp_path: Path
) -> None:
    """Not multiplied by 0, which would not undo an overflow; each result has its own."""
    tensor = safetensors.torch.load_file(place / FILE)[kind.last]
    wild = changed(place, tmp_path, {kind.last: tensor * 1e38 + 1e38 * (tensor.ndim == 1)})
    name, weights = kind.load(own, wild, name="wild"), [0.5] * (kind.results - 1) + [0.0]
    assert np.array_equal(latents(own, Control(EDGES, name=name, scale=0)), latents(own))
    expected = latents(own, Control(EDGES, name="edges", scale=weights))
    assert np.array_equal(latents(own, Control(EDGES, name=name, scale=weights)), expected)
    with pytest.raises(NumericalError):
        latents(own, Control(EDGES, name=name, scale=1000))


def test_every_container_gives_the_same_bits(
    own: ipa.Pipeline, backend: str, kind: Kind, place: Path, tmp_path: Path
) -> None:
    """Files and folders in every naming; and converted for MLX."""
    expected, sources = latents(own, Control(EDGES)), kind.spell(place, tmp_path)
    if backend == "mlx":
        converted = convert_component(place, tmp_path / "converted")
        sources += [(converted, {}), kind.inside(converted)]
    for source, options in sources:
        name = kind.load(own, source, **options)
        assert np.array_equal(latents(own, Control(EDGES, name=name)), expected), source
        kind.unload(own, name)


def wrong(kind: Kind, place: Path) -> Iterator[tuple[dict[str, torch.Tensor | None], str]]:
    """Tensors that cannot be, and words of the error."""
    tensor = safetensors.torch.load_file(place / FILE)[kind.named]
    yield {kind.named: torch.full_like(tensor, torch.nan)}, "NaN"
    yield {kind.named: tensor[:1].clone()}, kind.named.removeprefix("adapter.")
    yield {kind.named: None}, kind.named.removeprefix("adapter.")
    yield {kind.unknown: tensor + 1}, kind.unknown.removeprefix("adapter.")


def test_bad_weights_are_refused(
    own: ipa.Pipeline, kind: Kind, place: Path, tmp_path: Path
) -> None:
    """By a folder and by a file."""
    for number, (tensors, words) in enumerate(wrong(kind, place)):
        folder = changed(place, tmp_path / str(number), tensors)
        for source, options in ((folder, {}), kind.inside(folder)):
            with pytest.raises(CheckpointError, match=words):
                kind.load(own, source, name="bad", **options)
    assert list(own.info()[f"{kind.word}s"]) == ["edges"]
