"""The suite's own law: what outlives a test, no test changes; a copy of it, it may."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import pytest

from ipa import Pipeline
from oracle.sealed import SealedError, once, seal

NAMES = [
    name
    for name, _ in inspect.getmembers(Pipeline, inspect.isfunction)
    if name.startswith(("load_", "unload_", "set_")) and name != "load_image_embeds"
]
# A module of which the first test fails with an adapter loaded; the second asks for a clean one.
MODULE = """
import pytest
import ipa

@pytest.fixture(scope="module")
def pipe():
    return ipa.load("demo", backend="mlx")

@pytest.mark.parametrize("name", ["pipe", "own"])
def test_poison(name, request):
    pipe = request.getfixturevalue(name)
    pipe.load_ip_adapter(ipa.demo.adapter("base"))
    assert not pipe.info()["adapters"]

def test_after(pipe, own):
    assert not pipe.info()["adapters"] and not own.info()["adapters"]
"""


@pytest.fixture(scope="module")
def pipe(tiny: Path, open_pipeline: Any) -> Pipeline:
    return open_pipeline(tiny, "mlx", "linear")


@pytest.fixture(scope="module")
def kept(tiny: Path, open_pipeline: Any) -> dict[str, Any]:
    return {"in a list": [open_pipeline(tiny, "mlx")], "once": once(open_pipeline)}


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_of_a_module_is_not_changed(name: str, pipe: Pipeline, own: Pipeline) -> None:
    with pytest.raises(SealedError, match=name):
        getattr(pipe, name)()
    assert getattr(type(own), name) is getattr(Pipeline, name)
    assert isinstance(pipe, Pipeline) and type(own) is Pipeline


def test_neither_are_its_settings_nor_what_fixtures_keep(
    pipe: Pipeline, own: Pipeline, kept: dict[str, Any], tiny: Path
) -> None:
    own.vae_tiling = True
    for closed in (pipe, kept["in a list"][0], kept["once"](tiny, "torch")):
        with pytest.raises(SealedError, match="vae_tiling"):
            closed.vae_tiling = True
        assert closed.vae_tiling is None
    assert kept["once"](tiny, "torch") is kept["once"](tiny, "torch")
    with pytest.raises(SealedError, match="once"):
        seal({"opened": functools.cache(lambda: pipe)})


class Outcomes(dict[str, str]):
    """A plugin that keeps how each test ended."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self[report.location[2]] = f"{report.outcome} {report.longreprtext}"


def test_a_test_that_fails_leaves_nothing_behind(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Under this suite's own fixtures, in a run of its own."""
    (tmp_path / "test_one.py").write_text(MODULE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    suite = pytestconfig.pluginmanager.get_plugin(str(Path(__file__).parents[1] / "conftest.py"))
    outcomes = Outcomes()
    words = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    pytest.main([*words, str(tmp_path)], plugins=[suite, outcomes])
    assert outcomes["test_poison[pipe]"].startswith("failed")
    assert "SealedError: load_ip_adapter" in outcomes["test_poison[pipe]"]
    assert outcomes["test_poison[own]"].startswith("failed")
    assert "assert not {'" in outcomes["test_poison[own]"]
    assert outcomes["test_after"] == "passed "
