"""Number formats that become others: against torch's own conversions, every code of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ipa.errors import CheckpointError
from ipa_convert import inspect
from ipa_convert.containers.checkpoint import open_file
from ipa_convert.containers.decoding import BECOMES, decoded
from oracle.containers import save

SMALL = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("tag", SMALL)
def test_every_code_of_an_8_bit_float(tag: str, zipped: bool, tmp_path: Path) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(SMALL[tag]).reshape(16, 16)
    path = tmp_path / "codes"
    if zipped:
        torch.save({"codes": codes}, path)
    else:
        save(path, {"codes": codes})
    tensor = decoded(open_file(path)["codes"])
    expected = codes.to(torch.float16).numpy()
    assert (tensor.dtype, tensor.shape) == ("F16", (16, 16)) == (BECOMES[tag], expected.shape)
    found = tensor.array()
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, expected)  # also NaN where it is NaN
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
    np.testing.assert_array_equal(tensor.apart().array(), expected)


def test_double_precision(tmp_path: Path) -> None:
    values = torch.tensor([0.1, -1e300 / 1e300, 3.4e38, 1e-50, float("inf")], dtype=torch.float64)
    found = decoded(open_file(save(tmp_path / "a", {"x": values}))["x"]).array()
    np.testing.assert_array_equal(found, values.to(torch.float32).numpy())
    too_large = save(tmp_path / "b", {"x": torch.tensor([1e39], dtype=torch.float64)})
    with pytest.raises(CheckpointError, match="does not fit float32"):
        decoded(open_file(too_large)["x"]).array()


def test_others_stay_as_they_are(tmp_path: Path) -> None:
    half = open_file(save(tmp_path / "a", {"x": torch.ones(2, dtype=torch.bfloat16)}))["x"]
    assert decoded(half) is half


def test_inspect_tells_of_them(tmp_path: Path) -> None:
    found = inspect(
        save(
            tmp_path / "a.safetensors",
            {
                "a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn),
                "b.weight": torch.zeros(2, 2),
                "c.weight": torch.tensor([1.0, float("nan")]),
                "d": torch.arange(3),
            },
        ),
        values=True,
    )
    said = "; ".join(found.remarks)
    assert "mixed precisions: 2 of F32, 1 of F8_E4M3" in said
    assert "F8_E4M3 is not computed with: it becomes F16, exactly" in said
    assert "NaN or infinity in 1 tensors (c.weight)" in said
    assert "nothing but zeros in 1 tensors (b.weight)" in said
