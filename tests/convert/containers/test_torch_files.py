"""Files of torch.save, read without torch, hold what torch reads from them, bit for bit."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ipa.errors import CheckpointError
from ipa.model.clip import ClipVisionSpec
from ipa.model.sites import cross_attention_sites
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec
from ipa.sources.model_folder import open_model_folder
from ipa_convert import inspect, read_adapter, read_component
from ipa_convert.containers.checkpoint import open_file
from oracle import models, pickles
from oracle.adapters import nested
from oracle.containers import array_bits, bits, save

FORMATS = [(zipped, protocol) for zipped in (True, False) for protocol in (2, 3, 4)]
MIB = 1 << 20
Tree = dict[str, Any]


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def contents() -> dict[str, Tree]:
    """What people save, by name."""
    whole = draw(6, 8)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    return {
        "flat": {"a": draw(3, 4), "b.c": draw(5)},
        "nested": {"image_proj": {"a": draw(2, 3)}, "ip_adapter": {"1.to_k_ip.weight": draw(4)}},
        "types": {
            str(kind): draw(4, 4, dtype=kind)
            for kind in (torch.float16, torch.bfloat16, torch.float64, torch.float32)
        },
        "integers": {
            str(kind): torch.arange(7).to(kind)
            for kind in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
        },
        "module": module.state_dict(),  # an OrderedDict with _metadata, and a count of batches
        "parameters": OrderedDict(p=torch.nn.Parameter(draw(3, 3)), q=torch.nn.Parameter(draw(2))),
        "transposed": {"a": draw(3, 5).t(), "b": draw(2, 3, 4).permute(2, 0, 1)},
        "channels last": {"a": draw(2, 3, 4, 5).to(memory_format=torch.channels_last)},
        "shared": {"all": whole, "row": whole[2], "part": whole[1:4, ::2], "again": whole},
        "tied": {"a": whole, "b": whole.t()},
        "no dimensions, no elements": {"a": torch.tensor(2.5), "b": torch.zeros(0, 3)},
        "state dict": {"state_dict": {"a": draw(3)}, "epoch": 3, "name": "x", "rate": 0.5},
    }


def flat(tree: Tree, prefix: str = "") -> dict[str, torch.Tensor]:
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def assert_same(path: Path, expected: dict[str, torch.Tensor]) -> None:
    checkpoint = open_file(path)
    assert list(checkpoint) == list(expected)
    assert not checkpoint.converted
    for name, tensor in expected.items():
        stored = checkpoint[name]
        array = stored.array()
        assert (stored.name, stored.where) == (name, str(path))
        assert stored.shape == tuple(tensor.shape) == array.shape
        raw = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
        assert np.array_equal(array.reshape(-1).view(np.uint8), raw), name


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("case", contents())
@pytest.mark.parametrize(("zipped", "protocol"), FORMATS)
def test_as_torch_reads_them(case: str, zipped: bool, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "name with blanks ü.ckpt"
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    torch.save(contents()[case], path, **options)
    # torch's restricted reader knows protocols 2 and 3 alone; the file is our own.
    read = torch.load(path, weights_only=protocol < 4)
    assert_same(path, flat(read.get("state_dict", read)))


def test_types_keep_their_tags(tmp_path: Path) -> None:
    """What no network can use is named by the plan, not mistaken for something else."""
    kinds = {
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F64": torch.float64,
        "I64": torch.int64,
        "BOOL": torch.bool,
        "U16": torch.uint16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
    }
    tensors = {tag: torch.ones(3, 2).to(kind) for tag, kind in kinds.items()}
    torch.save(tensors, tmp_path / "a.pt")
    assert {name: t.dtype for name, t in open_file(tmp_path / "a.pt").items()} == {
        tag: tag for tag in kinds
    }
    assert_same(tmp_path / "a.pt", tensors)


def test_a_file_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": draw(3)}, tmp_path / "a.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(tmp_path / "a.bin", {"a": draw(3)})


def test_the_stride_of_a_side_of_one(tmp_path: Path) -> None:
    """It is never walked: torch keeps whatever stands there, beyond what numpy can hold too."""
    for stride in (0, 7, 2**61, 2**63 - 1, 2**100):
        pickle = pickles.state(a=pickles.tensor((1, 4), (stride, 1)))
        body = np.arange(4, dtype="<f4").tobytes()
        (tmp_path / "a.pth").write_bytes(pickles.archive(pickle, {"0": body}))
        stored = open_file(tmp_path / "a.pth")["a"]
        assert stored.array().tolist() == [[0, 1, 2, 3]]
        assert stored.array().flags.c_contiguous
        stored.release()


def test_a_training_checkpoint(tmp_path: Path) -> None:
    """As Lightning saves Stable Diffusion 1.x: a class as a key, numpy numbers, optimizers."""
    callback = (
        b"}("
        + pickles.text("best_model_score")
        + pickles.tensor((), ())
        + (
            pickles.text("current")
            + pickles.call(
                "numpy.core.multiarray",
                "scalar",
                pickles.call("numpy", "dtype", pickles.text("f8"), b"K\0", b"K\1")
                + pickles.group(b"K\3", pickles.text("<"), *[b"N"] * 3, *[b"J\xff\xff\xff\xff"] * 2)
                + b"b",
                pickles.call("_codecs", "encode", pickles.text("\0"), pickles.text("latin1")),
            )
            + b"u"
        )
    )
    model = pickles.name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    ordered = pickles.call("collections", "OrderedDict")
    metadata = b"}" + pickles.text("_metadata") + ordered + b"sb"
    pickle = pickles.state(
        epoch=b"K\5",
        callbacks=b"}" + model + callback + b"s",
        optimizer_states=b"]}" + pickles.text("state") + b"}K\0" + pickles.tensor() + b"ssa",
        lr=b"G" + bytes(8),
        state_dict=ordered
        + pickles.text("model.weight")
        + pickles.tensor((2, 2), (2, 1), source=pickles.storage(key="1"))
        + b"s"
        + metadata,
    )
    body = np.arange(4, dtype="<f4").tobytes()
    path = tmp_path / "last.ckpt"
    path.write_bytes(pickles.archive(pickle, {"0": pickles.ZEROS, "1": body}))
    checkpoint = open_file(path)
    assert list(checkpoint) == ["model.weight"]
    assert checkpoint["model.weight"].array().tolist() == [[0, 1], [2, 3]]


def test_strings_of_python_2(tmp_path: Path) -> None:
    pickle = pickles.START + b"}U\1a" + pickles.tensor() + b"s."
    (tmp_path / "a.pth").write_bytes(pickles.archive(pickle))
    assert list(open_file(tmp_path / "a.pth")) == ["a"]
    (tmp_path / "b.pth").write_bytes(
        pickles.stream(
            pickles.state(b=pickles.tensor(source=pickles.storage("FloatStorage", "0", 4, b"N")))
        )
    )
    assert list(open_file(tmp_path / "b.pth")) == ["b"]


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["linear", "mlp", "resampler"])
@pytest.mark.parametrize("zipped", [True, False])
def test_an_adapter(kind: str, zipped: bool, tmp_path: Path) -> None:
    """The published form, a dict of two dicts, gives the tensors of the safetensors file."""
    spec = UNetSpec.from_config(models.UNET)
    sites, width = cross_attention_sites(spec), models.UNET["cross_attention_dim"]
    tensors = models.adapter_tensors(
        kind, models.unet_sites(models.UNET), context=width, feature=36
    )
    torch.save(nested(tensors), tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    found, converted = read_adapter(tmp_path / "a.bin", sites, width)
    expected, original = read_adapter(save(tmp_path / "a.safetensors", tensors), sites, width)
    assert found == expected
    assert converted.keys() == original.keys()
    for name, tensor in converted.items():
        assert np.array_equal(array_bits(tensor.array()), array_bits(original[name].array())), name
    assert inspect(tmp_path / "a.bin").family == "IP-Adapter"
    assert inspect(tmp_path / "a.bin").variant == inspect(tmp_path / "a.safetensors").variant


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("component", "stem"),
    [("vae", "diffusion_pytorch_model"), ("image_encoder", "pytorch_model")],
)
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_component(component: Any, stem: str, variant: str | None, tmp_path: Path) -> None:
    module, spec = COMPONENTS[component]()
    state, tag = models.randomize(module, 3).state_dict(), f".{variant}" if variant else ""
    torch.save(state, tmp_path / f"{stem}{tag}.bin")
    converted = read_component(component, tmp_path, spec, variant=variant)
    originals = {name: values for name, _, values in converted.originals()}
    for name, values in originals.items():
        assert np.array_equal(array_bits(values), bits(state[name])), name
    with pytest.raises(CheckpointError, match="no weights called"):
        read_component(component, tmp_path, spec, variant="bf16" if variant else "fp16")


COMPONENTS: dict[str, Any] = {
    "vae": lambda: (AutoencoderKL(**models.VAE), VaeSpec.from_config(models.VAE)),
    "image_encoder": lambda: (
        CLIPVisionModelWithProjection(CLIPVisionConfig(**models.VISION)),
        ClipVisionSpec.from_config(models.VISION),
    ),
}


def test_shards(tmp_path: Path) -> None:
    module, spec = COMPONENTS["image_encoder"]()
    state = module.state_dict()
    names = sorted(state)
    weight_map = {}
    for i in range(3):
        file = f"pytorch_model-0000{i + 1}-of-00003.bin"
        torch.save({name: state[name] for name in names[i::3]}, tmp_path / file)
        weight_map |= dict.fromkeys(names[i::3], file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert len(read_component("image_encoder", tmp_path, spec)) == len(state)
    assert [part.tensors for part in inspect(tmp_path).parts] == [len(state)]


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    module, spec = COMPONENTS["image_encoder"]()
    save(tmp_path / "model.safetensors", module.state_dict())
    torch.save({"other": draw(2)}, tmp_path / "pytorch_model.bin")
    converted = read_component("image_encoder", tmp_path, spec)
    assert {Path(t.stored.where).name for t in converted.values()} == {"model.safetensors"}
    found = inspect(tmp_path)
    assert len(found.parts) == 1
    assert found.remarks[-1] == "pytorch_model.bin: not read, model.safetensors lies beside it"


def test_a_folder_with_what_training_leaves(tmp_path: Path) -> None:
    torch.save({"image_proj": {"proj.weight": draw(8, 4)}}, tmp_path / "adapter.bin")
    torch.save({"args": Path("x")}, tmp_path / "training_args.bin")
    found = inspect(tmp_path)
    assert [part.name for part in found.parts] == ["adapter.bin"]
    assert [
        remark
        for remark in found.remarks
        if remark.startswith("training_args.bin: not read (args, which is no tensor but of type ")
    ]


def test_the_extension_says_nothing(tmp_path: Path) -> None:
    torch.save({"a": draw(2)}, tmp_path / "a.safetensors")
    save(tmp_path / "a.bin", {"a": draw(2)})
    for file in ("a.safetensors", "a.bin"):
        assert_same(tmp_path / file, {"a": draw(2)})


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_mapped(zipped: bool, tmp_path: Path) -> None:
    """A sparse file of 64 MiB; only its description takes memory."""
    path = tmp_path / "large.bin"
    torch.save({"a": torch.zeros(16 * MIB)}, path, _use_new_zipfile_serialization=zipped)
    tracemalloc.start()
    array = open_file(path)["a"].array()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.nbytes == 64 * MIB <= path.stat().st_size
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert peak < MIB / 4, f"{peak / MIB:.2f} MiB"


def test_the_reference_reads_the_same_adapter(tmp_path: Path) -> None:
    """torch's own reader, for the same names and shapes."""
    from ipa_torch.files.weights import read_shapes, read_tensors

    tensors = {"image_proj": {"proj.weight": draw(4, 3)}, "ip_adapter": {"1.x": draw(2).half()}}
    for zipped in (True, False):
        path = tmp_path / "a.bin"
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        assert read_shapes(path) == {name: t.shape for name, t in open_file(path).items()}
        read = read_tensors(path, torch.float32)
        assert {name: t.dtype for name, t in read.items()} == dict.fromkeys(read, torch.float32)
        assert torch.equal(read["ip_adapter.1.x"], draw(2).half().float())
    for bad in ({"a": torch.arange(3)}, {"a": 1}, {"a": {"b": {"c": draw(1)}}}, [draw(1)]):
        torch.save(bad, path)
        with pytest.raises(CheckpointError) as caught:
            read_shapes(path)
        assert caught.value.remedy
    path.write_bytes(pickles.archive(pickles.START + pickles.name("os", "system") + b"."))
    with pytest.raises(CheckpointError, match="more than weights"):
        read_shapes(path)


def test_a_whole_model(tiny: Path, tmp_path: Path) -> None:
    """Every component pickled: the tensors of the original."""
    folder = shutil.copytree(tiny, tmp_path / "model")
    for component in ("unet", "vae", "text_encoder", "image_encoder"):
        models.pickle_weights(folder / component)
    model = open_model_folder(folder, name="pickled")
    for component in ("unet", "vae", "text_encoder", "image_encoder"):
        spec = getattr(model, component)
        expected = read_component(component, tiny / component, spec)
        found = read_component(component, folder / component, spec)
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            original = expected[name].array()
            assert np.array_equal(array_bits(tensor.array()), array_bits(original)), name
    assert inspect(folder).family == "Stable Diffusion model"
    assert inspect(folder).parameters == inspect(tiny).parameters


def test_a_unet_saved_in_channels_last(tmp_path: Path) -> None:
    module = UNet2DConditionModel(**models.UNET).to(memory_format=torch.channels_last)
    torch.save(module.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    converted = read_component("unet", tmp_path, UNetSpec.from_config(models.UNET))
    state = module.state_dict()
    for name, _, values in converted.originals():
        assert np.array_equal(array_bits(values), bits(state[name])), name
