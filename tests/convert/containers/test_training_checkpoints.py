"""What training runs save: their state dict is read, everything beside it is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import ipa_convert
from ipa.errors import CheckpointError
from ipa.sources.models import resolve_model
from ipa_convert.containers.checkpoint import open_file
from ipa_convert.containers.torch_save.pickle_names import GLOBALS
from ipa_convert.containers.torch_save.pickle_values import Inert
from ipa_torch.files.single_file import load_single_file
from ipa_torch.files.weights import Account
from oracle import models, single_files, training_runs
from oracle.containers import array_bits
from oracle.pickles import (
    NONE,
    archive,
    call,
    group,
    name,
    number,
    state,
    storage,
    stream,
    tensor,
    text,
)

MIB = 1 << 20
TAGS = {"F32": "float32", "F16": "float16", "I64": "int64"}
TESTS = Path(training_runs.__file__).parents[1]


def weights() -> OrderedDict[str, torch.Tensor]:
    """As CompVis' module gives them: with `_metadata`, a transposed matrix, and averages."""
    generator = torch.Generator().manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    found = module.state_dict(prefix="model.diffusion_model.")
    found["cond_stage_model.x"] = torch.randn(3, 5, generator=generator).t()
    found["model_ema.decay"] = torch.randn(4, generator=generator).half()
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every run in both containers, by "run, container"."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    with training_runs.packages() as classes:
        for run, contents in training_runs.runs(classes, weights()).items():
            for container, options in {
                "zip": {},
                "stream": {"_use_new_zipfile_serialization": False},
                "protocol 3": {"pickle_protocol": 3},
                "protocol 4": {"pickle_protocol": 4},
                "protocol 5": {"pickle_protocol": 5},
                "older numpy": {"pickle_module": training_runs.OLD_NUMPY},
            }.items():
                path = folder / f"{len(found)}.ckpt"
                torch.save(contents, path, **options)
                found[f"{run}, {container}"] = path
    return found


@pytest.fixture(scope="module")
def judged(files: dict[str, Path]) -> dict[str, list[str]]:
    """What torch reads from them, in a process in which the packages are there."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "oracle.training_runs", *map(str, files.values())],
        env=os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def digests(path: Path) -> list[str]:
    return [
        training_runs.digest(name, TAGS[t.dtype], t.shape, t.array().tobytes())
        for name, t in open_file(path).items()
    ]


def test_as_torch_reads_them(files: dict[str, Path], judged: dict[str, list[str]]) -> None:
    modules = set(sys.modules)
    for run, path in files.items():
        assert digests(path) == judged[str(path)], run
        assert len(judged[str(path)]) == len(weights())
    assert not [
        m for m in set(sys.modules) - modules if m.startswith(("omega", "pytorch_", "light"))
    ]


# Names that no pickle of this Python and system has.
ELSEWHERE = {
    "pathlib.WindowsPath",
    "numpy.core.numeric._frombuffer",  # the stand-in for older numpy writes no protocol 5
    *(f"pathlib._local.{name}" for name in ("PosixPath", "PurePosixPath")),
    *(f"pathlib._local.{name}" for name in ("WindowsPath", "PureWindowsPath")),
}


def test_the_list_is_what_runs_hold(files: dict[str, Path]) -> None:
    """No name is listed that none of them has."""
    written = b"".join(path.read_bytes() for path in files.values())
    idle = {
        known.name
        for pair, known in GLOBALS.items()
        if isinstance(known, Inert)
        and b"c%s\n%s\n" % (pair[0].encode(), pair[1].encode()) not in written
        and not all(b"\x8c%c%s" % (len(part), part.encode()) in written for part in pair)
    }
    assert idle == ELSEWHERE


def test_what_lies_beside_is_not_read(tmp_path: Path) -> None:
    """The optimizer's tensors: 32 MiB that no part of the reader touches."""
    path = tmp_path / "a.ckpt"
    moments = {"exp_avg": torch.zeros(8 * MIB)}
    torch.save({"state_dict": weights(), "optimizer_states": [{"state": {0: moments}}]}, path)
    tracemalloc.start()
    for stored in open_file(path).values():
        stored.array().sum()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB / 4, f"{peak / MIB:.2f} MiB"


def test_a_whole_model(tmp_path: Path) -> None:
    """Its weights are those of the folder, on both backends."""
    tiny = models.Tiny(unet=dict(models.FOUR_LEVELS))
    folder = models.build_folder(tmp_path / "model", tiny)
    configs, path = single_files.configs(folder, tmp_path / "configs"), tmp_path / "last.ckpt"
    with training_runs.packages() as classes:
        torch.save(training_runs.runs(classes, single_files.sd15(folder))["1.6"], path)
    model = resolve_model(path, config=configs)
    expected = ipa_convert.read_model(resolve_model(folder))
    for component, part in ipa_convert.read_model(model).items():
        assert part.keys() == expected[component].keys()
        for key, stored in part.items():
            original = expected[component][key].array()
            assert np.array_equal(array_bits(stored.array()), array_bits(original)), key
    modules = load_single_file(model, model.single_file, torch.float32, Account())
    for component, module in modules.items():
        original = single_files.component(folder, component)
        for key, value in module.state_dict().items():
            assert torch.equal(value, original[key]), f"{component}.{key}"


SPACE = call("argparse", "Namespace")
CLASS = name("argparse", "Namespace")
DEFAULT = call("collections", "defaultdict", name("__builtin__", "dict"))
WEIGHTS = b"}" + text("a") + tensor() + b"s"


def run(**beside: bytes) -> bytes:
    """A training run with one tensor and something beside its state dict."""
    return archive(state(**beside, state_dict=WEIGHTS))


def new(module: str, attribute: str) -> bytes:
    return name(module, attribute) + b")\x81"


CONFIG = new("omegaconf.dictconfig", "DictConfig")
LAUGHS = SPACE + b"q\0"
for row in range(200):
    LAUGHS += CLASS + b"(h%ch%ctRq%c" % (row, row, row + 1)
HARMLESS: dict[str, bytes] = {
    "state that replaces a class": SPACE + b"}" + text("__class__") + CLASS + b"sb",
    "state that is a number": SPACE + number(2**100) + b"b",
    "state that replaces attributes": CONFIG + b"}" + text("__dict__") + NONE + b"sb",
    "state of itself": SPACE + b"q\0}" + text("a") + b"h\0sb",
    "state twice": SPACE + b"}b}b",
    "entries of itself": DEFAULT + b"q\0h\0h\0s",
    "entries by keys of any kind": DEFAULT + b"(]N})u" + CLASS + NONE + b"s",
    "items in one of no list": call("collections", "deque") + b"Na(NNe",
    "argument that is the class": CLASS + b"(" + CLASS + b"tR",
    "factory that makes tensors": call("collections", "defaultdict", name("torch", "FloatStorage")),
    "objects that hold two of those before": LAUGHS,
    "enormous number": number(2**126),
    "negative step": number(-(2**126)),
    "one object as many keys": b"}" + SPACE + NONE + b"s" + SPACE + NONE + b"s",
    "tuples in tuples": CLASS + b")" + b"\x85" * 20_000 + b"R",
    "lists in lists": CLASS + b"(" + b"](" * 90 + b"e" * 90 + b"tR",
    "set of protocol 4": b"\x8f(NK\1\x90",
    "frozen set of protocol 4": b"(NK\1\x91",
    "bytes of protocol 5": b"\x96\3" + bytes(7) + b"abc",
    "object array": call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"))
    + group(b"K\1", group(), SPACE, b"](" + CLASS + b"e")
    + b"b",
}


@pytest.mark.parametrize("case", HARMLESS)
def test_harmless(case: str, tmp_path: Path) -> None:
    """Read, and no more comes of it than of its absence."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(run(x=HARMLESS[case]))
    assert [(n, t.array().tolist()) for n, t in open_file(path).items()] == [("a", [0.0] * 4)]


HOSTILE: dict[str, tuple[bytes, str]] = {
    "object called": (run(x=SPACE + b")R"), "a call of a argparse.Namespace"),
    "object made of an object": (run(x=CONFIG + b")\x81"), "an object of a omegaconf.dictconfig"),
    "call without a tuple": (run(x=CLASS + b"}R"), "a call of argparse.Namespace with a dict"),
    "state of a class": (run(x=CLASS + b"}b"), "a state for a argparse.Namespace"),
    "entry in a class": (run(x=CLASS + b"NNs"), "an entry in a argparse.Namespace"),
    "item in a class": (run(x=CLASS + b"Na"), "an append to a argparse.Namespace"),
    "half an entry": (run(x=DEFAULT + b"(Nu"), "an entry in a collections.defaultdict"),
    "state with a call": (
        run(x=SPACE + b"}" + text("a") + call("os", "system", text("true")) + b"sb"),
        "the name os.system",
    ),
    "factory that runs": (
        run(x=call("collections", "defaultdict", name("os", "system"))),
        "the name os.system",
    ),
    "weight": (archive(state(state_dict=b"}" + text("a") + SPACE + b"s"), {}), "of type argparse"),
    "weight of numpy": (
        archive(state(a=call("numpy.core.multiarray", "scalar", name("numpy", "dtype"))), {}),
        "a, which is no tensor but of type numpy.core.multiarray.scalar",
    ),
    "weight deeper": (
        archive(state(state_dict=b"}" + text("a") + b"}" + text("b") + CONFIG + b"ss"), {}),
        "a.b, which is no tensor but of type omegaconf.dictconfig.DictConfig",
    ),
    "class as a weight": (archive(state(a=CLASS), {}), "of type argparse.Namespace"),
    "name of a weight": (
        archive(state(state_dict=b"}" + CLASS + tensor() + b"s")),
        "a tensor with the name",
    ),
    "object as the name of a weight": (
        archive(state(state_dict=b"}" + SPACE + tensor() + b"s")),
        "a tensor with the name",
    ),
    "state dict": (archive(state(state_dict=SPACE), {}), "that is a argparse.Namespace"),
    "state dict with a state": (
        archive(state(state_dict=SPACE + WEIGHTS + b"b")),
        "a state dict that is a argparse.Namespace",
    ),
    "state dict with entries": (
        archive(state(state_dict=DEFAULT + text("a") + tensor() + b"s")),
        "a state dict that is a collections.defaultdict",
    ),
    "state dict that is a class": (archive(state(state_dict=CLASS), {}), "that is a argparse"),
    "whole file": (archive(b"\x80\2" + SPACE + WEIGHTS + b"b."), "a argparse.Namespace where"),
    "beside flat weights": (archive(state(a=tensor(), args=SPACE)), "args, which is no tensor"),
    "storage": (run(x=tensor(source=SPACE)), "without a typed storage"),
    "hooks": (run(x=tensor(hooks=SPACE)), "hooks or metadata"),
    "key of a storage": (
        run(x=group(text("storage"), name("torch", "FloatStorage"), SPACE, text("cpu"), b"K\4Q")),
        "names no storage",
    ),
    "kind of a storage": (
        run(x=group(text("storage"), CLASS, text("0"), text("cpu"), b"K\4") + b"Q"),
        "names no storage",
    ),
    "name of a name": (run(x=SPACE + text("a") + b"\x93"), "a name that is no text"),
    "pairs": (run(x=call("collections", "OrderedDict", DEFAULT)), "made of pairs"),
    "one object as a key twice": (
        run(x=b"}" + SPACE + b"q\0Nsh\0Ns"),
        "twice in one dict",
    ),
    "number of 200 bytes": (run(x=b"\x8a\xc8" + bytes(200)), "an integer of 200 bytes"),
    "groups in groups": (run(x=(CLASS + b"(") * 201), "more than 200 containers"),
    "tensor beyond its storage, beside": (run(x=SPACE + tensor((5,)) + b"b"), "ends at element 5"),
    "storage that is not there, beside": (
        run(x=SPACE + tensor(source=storage(key="7")) + b"b"),
        "0 bytes for storage",
    ),
    "head of a stream": (stream(state(a=tensor()), keys=b"\x80\2" + SPACE + b"."), "names no"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refused(case: str, tmp_path: Path) -> None:
    data, found = HOSTILE[case]
    path = tmp_path / "a.ckpt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        open_file(path)
    assert found in caught.value.found
    assert caught.value.remedy
    assert len(str(caught.value)) < len(str(path)) + 500, "a message, not a dump"


NEAR = (
    ("argparse", "FileType"),
    ("argparse", "Namespace.__init__"),
    ("builtins", "getattr"),
    ("builtins", "object"),
    ("builtins", "type"),
    ("collections", "namedtuple"),
    ("copyreg", "_reconstructor"),
    ("functools", "partial"),
    ("numpy", "fromfile"),
    ("numpy.core.multiarray", "fromfile"),
    ("omegaconf", "OmegaConf"),
    ("omegaconf.omegaconf", "OmegaConf.load"),
    ("operator", "attrgetter"),
    ("operator", "getitem"),
    ("pathlib", "Path.unlink"),
    ("pytorch_lightning", "Trainer"),
    ("pytorch_lightning.callbacks.model_checkpoint", "os.system"),
    ("torch", "load"),
    ("torch.device", "__init__"),
    ("typing", "get_type_hints"),
    ("typing", "sys.modules"),
    ("ldm.models.diffusion.ddpm", "LatentDiffusion"),
)


@pytest.mark.parametrize("pair", NEAR, ids=".".join)
@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: n + b")R", lambda n: n + b")\x81"])
def test_names_nearby(
    pair: tuple[str, str], wrap: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    """Refused by name also beside the state dict, and the message says what to do."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(run(x=wrap(name(*pair))))
    with pytest.raises(CheckpointError) as caught:
        open_file(path)
    assert f"the name {'.'.join(pair)}" in caught.value.found
    assert "save the state_dict alone" in caught.value.remedy
