"""Files of torch.save in the reference's own reading: what torch reads, and nothing that runs."""

from __future__ import annotations

import pathlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ipa.errors import CheckpointError
from ipa_torch.files.torch_file import read_state
from oracle.pickles import NONE, archive, call, group, name, number, state, storage, tensor, text


def contents() -> dict[str, Any]:
    """Every way in which tensors lie in files."""
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(5, 7, generator=draw)
    return OrderedDict(
        whole=whole,
        turned=whole.t(),
        slice=whole[1:3, 2:],
        tied=whole,
        brain=torch.randn(3, generator=draw).bfloat16(),
        half=torch.randn(4, generator=draw).half(),
        trained=torch.nn.Parameter(torch.randn(2, 2, generator=draw)),
        empty=torch.zeros(0, 3),
        numbers=torch.arange(3),
        scalar=torch.tensor(2.0),
        truth=torch.tensor([True, False]),
    )


BESIDE = {
    "nothing": {},
    "numpy": {"loss": np.float64(0.1), "rows": np.arange(3), "kind": np.dtype("f2")},
    "settings": {"path": pathlib.Path("a"), "set": {1, 2}, "frozen": frozenset("a")},
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_as_it_was_saved(protocol: int, zipped: bool, beside: str, tmp_path: Path) -> None:
    expected, path = contents(), tmp_path / "a.ckpt"
    torch.save(
        {"state_dict": expected, **BESIDE[beside]},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    found = read_state(path)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


SPACE = call("argparse", "Namespace")
CLASS = name("argparse", "Namespace")
WEIGHTS = b"}" + text("a") + tensor() + b"s"


def run(**beside: bytes) -> bytes:
    """A training run with one tensor and something beside its state dict."""
    return archive(state(**beside, state_dict=WEIGHTS))


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a program": (run(x=call("os", "system", text("true"))), "the name os.system"),
    "a name alone": (run(x=name("builtins", "eval")), "the name builtins.eval"),
    "a state with a program": (
        run(x=SPACE + b"}" + text("a") + call("posix", "system", text("true")) + b"sb"),
        "the name posix.system",
    ),
    "an object called": (run(x=SPACE + b"NR"), "a call of Inert"),
    "a tensor called": (run(x=SPACE + tensor() + b")R"), "a call of Tensor"),
    "a state for a tensor": (run(x=SPACE + tensor() + b"}b"), "a state for Tensor"),
    "a state for a function": (
        run(x=SPACE + name("collections", "OrderedDict") + b"}b"),
        "a state for _Function",
    ),
    "entries in a tensor": (run(x=SPACE + tensor() + b"NNs"), "entries in Tensor"),
    "items in a dict": (run(x=SPACE + b"}Na"), "items in dict"),
    "beyond its storage": (run(x=SPACE + tensor((5,)) + b"b"), "reaches beyond its storage"),
    "more than its storage": (
        run(x=SPACE + tensor((9,), (0,)) + b"b"),
        "reaches beyond its storage",
    ),
    "no such storage": (run(x=SPACE + tensor(source=storage(key="7")) + b"b"), "data/7"),
    "a storage of another kind": (run(x=SPACE + tensor(source=SPACE) + b"b"), "no storage"),
    "an unknown operation": (run(x=SPACE + b"\x82\x01"), "the operation EXT1"),
    "groups in groups": (run(x=SPACE + b"(" * 300), "too many steps"),
    "no state dict": (archive(state(state_dict=SPACE), {}), "where a state dict should be"),
    "not a storage's id": (run(x=SPACE + group(text("x"), NONE) + b"Q"), "names no storage"),
    "a cut": (run(x=SPACE + b"X\xff\xff\xff\x7fabc"), "bytes in a unicodestring4"),
    "half an entry": (run(x=SPACE + number(2**100)), "entries in dict"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_refused(case: str, tmp_path: Path) -> None:
    """torch's reader stops at the first inert name; ours goes on and must stop at the rest."""
    data, found = HOSTILE[case]
    path = tmp_path / "a.ckpt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_state(path)
    assert caught.value.remedy and len(str(caught.value)) < len(str(path)) + 600
    assert found in caught.value.found
