"""Every argument of everything public is given what it is not: nothing but an `IpaError` comes out.

The arguments are read from signatures and fields, so that a new one is tried by itself, and a new
method fails until there is a call of it here.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import Control, Face, ImageEmbeds, ImagePrompt, IpaError, demo
from ipa.pipeline.snapshot import Selection
from ipa.prepare.controls.preprocessors import edges
from ipa.prepare.editing.outpainting import enlarge, outpaint
from ipa.prepare.images.pictures import open_image
from ipa.request.embeds import EmbedsOrigin
from ipa.request.request import Request, RequestArguments
from ipa.sheets.mask_overlay import overlay
from ipa.sheets.sheet import SheetBlock, draw_sheet
from ipa.sheets.sweep import Axis, Sweep, make_cells


class Unprintable:
    """Not even to be shown."""

    def __repr__(self) -> str:
        raise ValueError("unprintable")


PICTURE = Image.new("RGB", (16, 16), "red")
VALUES: dict[str, Any] = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "3": 3,
    "a huge int": 10**400,
    "an int that cannot be printed": 10**5000,
    "1.5": 1.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "numpy's nan": np.float32("nan"),
    "complex": 1j,
    "empty text": "",
    "text": "x",
    "NUL": "a\0b",
    "long text": "x" * 70_000,
    "surrogate": "\ud800",
    "bytes": b"x",
    "Path": Path("nowhere"),
    "empty list": [],
    "[None]": [None],
    "nested": [[1], [2, [3]]],
    "texts": ["x", 3],
    "ragged": [1, [2]],
    "empty dict": {},
    "dict": {"a": 1},
    "dict of odd keys": {None: {1: "x"}, 3: float("nan")},
    "set": {1, 2},
    "range": range(3),
    "iterator": iter(()),
    "object": object(),
    "unprintable": Unprintable(),
    "type": type,  # that takes a picture, too: what a function raises is its own
    "function": lambda *given, **named: 0,
    "picture": PICTURE,
    "prompt": ImagePrompt(PICTURE),
    "five axes": np.zeros((2, 1, 1, 1, 3)),
    "no axis": np.array(3),
    "no number": np.zeros(0),
    "texts of numpy": np.array(["a", "b"]),
    "objects of numpy": np.array([None, "b"], dtype=object),
    "2 × 2": np.zeros((2, 2)),
}

FEATURES = np.ones((1, 4), np.float32)
ORIGIN = EmbedsOrigin(
    feature="embedding", encoder="e", encoder_sha256="a", preprocessing_sha256="b"
)
EMBEDS = ImageEmbeds(conditional=FEATURES, unconditional=FEATURES, origin=ORIGIN)
FACE = np.ones(512, np.float32)
CALL = {"width": 32, "height": 32, "num_inference_steps": 2}

Call = tuple[Callable[..., Any], Mapping[str, Any]]
"""What is called, and with what beside the argument that is wrong."""


def parameters(function: Callable[..., Any]) -> Iterator[str]:
    """The names of all arguments; a TypedDict's keys are some."""
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            plain = inspect.unwrap(function)
            kind = re.fullmatch(r"Unpack\[(\w+)\]", plain.__annotations__[name])[1]
            yield from plain.__globals__[kind].__annotations__
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL and name != "self":
            yield name


def tried(call: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> list[str]:
    """What comes out of a call that is none of ours, for every wrong value of an argument."""
    leaks = []
    for title, value in VALUES.items():
        try:
            call(**{**arguments, name: value})
        except IpaError as error:
            if not error.what:
                leaks.append(f"{title}: says nothing")
        except Exception as error:  # noqa: BLE001 - the point of it
            leaks.append(f"{title}: {type(error).__name__}: {str(error)[:90]}")
    return leaks


def told(leaks: Mapping[str, list[str]]) -> str:
    return "\n".join(f"{name}= {leak}" for name, each in leaks.items() for leak in each)


@pytest.fixture(scope="module")
def pipe(backend: str) -> ipa.Pipeline:
    """The demo, with one of everything."""
    device = {"device": "cpu"} if backend == "torch" else {}
    pipe = ipa.load("demo", backend=backend, **device)
    pipe.load_ip_adapter(demo.adapter("base"), name="base")
    pipe.load_controlnet(demo.controlnet(), name="edges")
    return pipe


def planned(pipe: ipa.Pipeline, **arguments: Any) -> None:
    """A call up to its first event: wrong is wrong before."""
    pipe.stream(**arguments).close()


# Names of methods of a pipeline, with arguments that are right; but names that are taken, so that
# nothing is read in vain.
METHODS: dict[str, dict[str, Any]] = {
    "__call__": {"num_inference_steps": "wrong"},  # what is right is not computed here
    "stream": CALL,
    "showing": {"selection": Selection()},
    "astream": {},  # what it does not check at once, a stream does
    "agenerate": {},
    "close": {},
    "embed_images": {"images": [PICTURE]},
    "encode_image_prompt": {"image": PICTURE},
    "encoder_views": {"prompt": ImagePrompt(PICTURE)},
    "fingerprints": {},
    "info": {},
    "release": {},
    "file_hashes": {},
    "plan": CALL,
    "replay": {"file": "nowhere.png"},
    "load_controlnet": {"source": demo.controlnet(), "name": "edges"},
    "load_image_embeds": {"path": "nowhere.safetensors"},
    "load_ip_adapter": {"source": demo.adapter("base"), "name": "base"},
    "load_lora": {"source": "nowhere.safetensors"},
    "load_preview_decoder": {"source": "nowhere.safetensors"},
    "load_t2i_adapter": {"source": "nowhere.safetensors"},
    "load_textual_inversion": {"source": "nowhere.safetensors"},
    "set_ip_adapter_scale": {"scale": 1.0},
    "set_lora_scale": {"scale": 1.0},
    "unload_controlnet": {},
    "unload_ip_adapter": {},
    "unload_lora": {},
    "unload_t2i_adapter": {},
    "unload_textual_inversion": {},
}
EDITED = {"image": PICTURE, "mask_image": np.ones((16, 16), bool)}
BESIDE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("mask_image", "padding_mask_crop", "mask_blur", "overlay", "strength"), EDITED
    ),
    "preview_every": {"preview": "latent"},
    "guidance_rescale": {"guidance_scale": 3.0},
}
"""What an argument of a call is about."""


def test_every_method_is_tried() -> None:
    found = {
        name
        for name, member in inspect.getmembers(ipa.Pipeline, inspect.isfunction)
        if not name.startswith("_") or name == "__call__"
    }
    assert found == {*METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_methods(method: str, own: ipa.Pipeline) -> None:
    pipe = own
    loaded = [*pipe.info()["adapters"]], [*pipe.info()["controlnets"]]
    adapters, controls = dict(pipe._loaded.adapters), dict(pipe._loaded.controls)
    function = getattr(pipe, method)

    def call(**arguments: Any) -> None:
        try:
            found = function(**arguments)
            if method == "stream":
                found.close()
        finally:
            for name in {*pipe._loaded.adapters} - {*adapters}:
                pipe.unload_ip_adapter(name)
            for name in {*pipe._loaded.controls} - {*controls}:
                pipe.unload_controlnet(name)
            again(pipe)

    names = {*parameters(function)}
    if method in {"__call__", "astream", "agenerate"}:
        names -= {*parameters(pipe.stream)}  # what a call does not do itself
    leaks = {}
    for name in sorted(names):
        beside = BESIDE.get(name, {}) if method == "stream" else {}
        leaks[name] = tried(call, METHODS[method] | beside, name)
    assert not told(leaks)
    if method == "close":
        return
    assert ([*pipe.info()["adapters"]], [*pipe.info()["controlnets"]]) == loaded


def again(pipe: ipa.Pipeline) -> None:
    """What a right call has unloaded."""
    if not pipe._loaded.adapters:
        pipe.load_ip_adapter(demo.adapter("base"), name="base")
    if not pipe._loaded.controls:
        pipe.load_controlnet(demo.controlnet(), name="edges")


def test_settings(own: ipa.Pipeline) -> None:
    pipe = own
    leaks = tried(lambda vae_tiling: setattr(pipe, "vae_tiling", vae_tiling), {}, "vae_tiling")
    pipe.vae_tiling = None
    assert not leaks


@pytest.mark.parametrize("name", [*parameters(ipa.load)])
def test_load(name: str, backend: str) -> None:
    """Before anything is opened: the model is not there."""
    given = {"model": "nowhere/there.safetensors", "backend": backend}
    assert not told({name: tried(ipa.load, given, name)})


PROMPT_BASES: dict[str, dict[str, Any]] = {
    "shortcut_scale": {"face": FACE, "image": None},
    "face": {"image": None},
    "mask_fit": {"mask": np.ones((32, 32), bool)},
    "neg_content_scale": {"neg_content_prompt": "a dog"},
    "enhance_ratio": {"enhance_tiles": 2},
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ImagePrompt)])
def test_image_prompts(name: str, pipe: ipa.Pipeline) -> None:
    """What a prompt lets through is looked at when it is used."""

    def call(**arguments: Any) -> None:
        planned(pipe, image_prompts=ImagePrompt(**arguments), **CALL)

    base = {"image": PICTURE} | PROMPT_BASES.get(name, {})
    assert not told({name: tried(call, base, name)})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Control)])
def test_controls(name: str, pipe: ipa.Pipeline) -> None:
    def call(**arguments: Any) -> None:
        planned(pipe, controls=Control(**arguments), **CALL)

    assert not told({name: tried(call, {"image": PICTURE}, name)})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Face)])
def test_faces(name: str, pipe: ipa.Pipeline) -> None:
    def call(**arguments: Any) -> None:
        planned(pipe, image_prompts=ImagePrompt(PICTURE, face=Face(**arguments)), **CALL)

    assert not told({name: tried(call, {"embedding": FACE}, name)})


def test_a_request_and_a_call_have_the_same_words() -> None:
    own = {field.name for field in dataclasses.fields(Request)}
    assert own == {*RequestArguments.__annotations__} | {"prompt", "image_prompts"}


FUNCTIONS: dict[str, Call] = {
    "enlarge": (enlarge, {"latents": np.zeros((1, 4, 2, 2), np.float32), "factor": 2.0}),
    "outpaint": (outpaint, {"picture": PICTURE, "left": 8}),
    "edges": (edges, {"picture": PICTURE}),
    "open_image": (open_image, {}),
    "overlay": (overlay, {"image": PICTURE, "shares": np.zeros((1, 2, 2), np.float32)}),
    "ImageEmbeds": (
        ImageEmbeds,
        {"conditional": FEATURES, "unconditional": FEATURES, "origin": ORIGIN},
    ),
    "ImageEmbeds.row": (EMBEDS.row, {}),
    "ImageEmbeds.combine": (EMBEDS.combine, {"mode": "average"}),
    "ImageEmbeds.with_faces": (
        EMBEDS.with_faces,
        {"conditional": FEATURES, "unconditional": FEATURES},
    ),
    "ImageEmbeds.against": (EMBEDS.against, {}),
    "ImageEmbeds.join": (ImageEmbeds.join, {}),
    "ImageEmbeds.to_diffusers": (EMBEDS.to_diffusers, {}),
    "ImageEmbeds.unconditional_rows": (EMBEDS.unconditional_rows, {}),
    "ImageEmbeds.load": (ImageEmbeds.load, {}),
    "Axis": (Axis, {"name": "scale", "values": [0.0, 1.0]}),
    "Sweep": (Sweep, {"axes": [Axis("scale", [0.0])], "image_prompt": ImagePrompt(PICTURE)}),
    "draw_sheet": (draw_sheet, {"blocks": [SheetBlock(columns=(), rows=())]}),
}


def test_every_method_of_embeds_is_tried() -> None:
    found = {n for n in dir(ImageEmbeds) if callable(getattr(ImageEmbeds, n)) and n[0] != "_"}
    tried_here = {name.rpartition(".")[2] for name in FUNCTIONS if "." in name}
    assert found == tried_here | {"save"}


@pytest.mark.parametrize("title", FUNCTIONS)
def test_functions(title: str) -> None:
    function, arguments = FUNCTIONS[title]
    assert not told({n: tried(function, arguments, n) for n in parameters(function)})


def test_saving_embeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not told({"path": tried(EMBEDS.save, {}, "path")})


@pytest.mark.parametrize("name", [n for n in parameters(make_cells) if n != "pipe"])
def test_sweeps(name: str, pipe: ipa.Pipeline) -> None:
    sweep = Sweep(
        axes=[Axis("scale", [0.5])], image_prompt=ImagePrompt(PICTURE), arguments=dict(CALL)
    )

    def call(**arguments: Any) -> None:
        make_cells(pipe, **arguments)

    assert not told({name: tried(call, {"sweep": sweep}, name)})


def test_callbacks_are_looked_at_before_anything_is_computed(
    pipe: ipa.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that only a call has."""

    def computed(*args: Any) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr(pipe._loaded.backend, "encode_text", computed)
    for name in ("on_progress", "weights", "cancel", "tap"):
        for value in (3, "x", b"x", [], {}, object(), 1.5, True):
            with pytest.raises(ipa.RequestError, match=name):
                pipe("a star", **CALL, **{name: value})


def test_a_run_is_cancelled_by_a_function_or_an_event(pipe: ipa.Pipeline) -> None:
    event = threading.Event()
    event.set()
    for cancel in (event, lambda: True, event.is_set):
        with pytest.raises(ipa.Cancelled):
            pipe("a star", **CALL, cancel=cancel)
    pipe("a star", **CALL, cancel=lambda: False, output_type="latent")


def test_an_argument_that_there_is_not(own: ipa.Pipeline) -> None:
    pipe = own
    with pytest.raises(ipa.RequestError, match=r"no such argument; found: knd=; .*kind="):
        pipe.load_ip_adapter(demo.adapter("plus"), knd="x")
    with pytest.raises(ipa.RequestError, match=r"no such argument; found: combin=; .*combine="):
        pipe.encode_image_prompt(PICTURE, combin="average")
    with pytest.raises(ipa.RequestError, match=r"no such argument; found: subfoldr="):
        pipe.load_lora("x.safetensors", subfoldr="a")
    with pytest.raises(TypeError):
        pipe.set_lora_scale(1.0, strength=1.0)
