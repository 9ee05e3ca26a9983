"""Dialects become one form: pure functions of what clients send."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa.engine.needs import Needs
from ipa.errors import RequestError
from ipa.pipeline.documents.pictures import PictureShelf
from ipa.prepare.samplers.schedules import NAMES
from ipa.serve.asked import Asked, make_job
from ipa.serve.dialects import a1111_answers, native, openai
from ipa.serve.dialects.a1111 import (
    SAMPLERS,
    SCHEDULERS,
    Settings,
    read_img2img,
    read_txt2img,
)
from ipa.serve.dialects.a1111_units import IP_ADAPTERS
from ipa.serve.faults import Fault
from ipa.serve.limits import Limits
from ipa.serve.offers import Offers
from ipa.serve.pictures import CountedPictures, Derived
from oracle.served import OFFERS, base64_of, reference

OFFERED = Offers.of(
    ["demo", "other=demo:other"], {**OFFERS, "loras": ["pixel=/x/pixel.safetensors"]}
)
DATA = base64_of(reference())
SETTINGS = Settings(model="demo")


def txt2img(**body: Any) -> Asked:
    return read_txt2img({"prompt": "a star", **body}, SETTINGS, OFFERED)


def unit(**fields: Any) -> dict[str, Any]:
    return {"alwayson_scripts": {"ControlNet": {"args": [{"image": DATA, **fields}]}}}


def job(asked: Asked) -> Any:
    return make_job(asked, OFFERED, PictureShelf(), Limits())


def test_a_generation() -> None:
    body = {"prompt": "a star", "n": 2, "size": "64x32", "quality": "low", "seed": 7, "style": None}
    asked, delivery = openai.read_generation({**body, "model": "gpt-image-1", "odd": 1})
    assert asked.request == {
        "prompt": "a star",
        "num_images": 2,
        "width": 64,
        "height": 32,
        "num_inference_steps": 12,
        "seed": 7,
    }
    assert asked.warnings == ("odd has no effect here", "quality low is 12 steps here")
    assert not delivery.by_url and delivery.kind == "png"
    assert job(asked).needs == Needs.of("demo")


def test_pictures_of_an_edit_are_one_image_prompt_or_one_each() -> None:
    files = [b"a", b"b", b"c"]
    asked, _ = openai.read_edit({"prompt": "x", "input_fidelity": "high"}, files, None)
    assert asked.request["image_prompts"] == [{"image": files, "scale": 0.8}]
    asked, _ = openai.read_edit({"prompt": "x", "scale": "0.1,0.2,0.3"}, files, None)
    scales = [entry["scale"] for entry in asked.request["image_prompts"]]
    assert scales == [0.1, 0.2, 0.3]
    assert "image" not in asked.request
    asked, _ = openai.read_edit({"prompt": "x", "mode": "img2img", "strength": "0.4"}, files, None)
    assert asked.request["image"] == b"a" and asked.request["strength"] == 0.4
    assert asked.request["image_prompts"][0]["image"] == [b"b", b"c"]


def test_with_a_mask_the_first_picture_is_edited() -> None:
    clear = np.full((8, 8, 4), 255, np.uint8)
    clear[:4, :, 3] = 0
    clear[4:, :, 3] = 254  # not fully clear: it stays
    mask = openai.clear_parts(Image.fromarray(clear))
    assert np.asarray(mask)[:, 0].tolist() == [255] * 4 + [0] * 4
    asked, _ = openai.read_edit({"prompt": "x"}, [b"a", b"b"], b"mask")
    assert asked.request["image"] == b"a" and asked.request["strength"] == 1.0
    assert asked.request["mask_image"] == Derived(b"mask", openai.clear_parts)
    assert asked.request["image_prompts"] == [{"image": [b"b"], "scale": 0.5}]
    assert "first picture is edited" in asked.warnings[0]
    with pytest.raises(RequestError, match="no transparency"):
        openai.clear_parts(Image.new("RGB", (4, 4)))


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"n": "11"}, "n"),
        ({"n": "two"}, "n"),
        ({"size": "64"}, "size"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "svg"}, "output_format"),
        ({"scale": "much"}, "scale"),
        ({"scale": "1,2"}, "scale"),
        ({"stream": "perhaps"}, "stream"),
    ],
)
def test_a_wrong_field_of_a_form_is_named(form: dict[str, str], field: str) -> None:
    with pytest.raises(Fault) as told:
        openai.read_edit({"prompt": "x", **form}, [b"a"], None)
    assert told.value.field == field


def test_a_job_may_name_what_is_offered_and_nothing_else() -> None:
    entry = {"image": {"data": DATA}, "adapter": "plus_sd15"}
    document = job(native.read_job({"request": {"image_prompts": [entry]}}))
    (part,) = document.needs.adapters
    assert (part.source, part.name) == ("demo:plus", "plus_sd15")
    for asked in (
        {"model": "/etc/passwd"},
        {"adapters": ["/etc/passwd"]},
        {"adapters": ["demo:base"]},  # a source, which is not its name
        {"request": {"image_prompts": [{"image": DATA, "adapter": "../x"}]}},
        {"request": {"loras": {"/etc/x.safetensors": 1.0}}},
    ):
        with pytest.raises(Fault, match="offers no"):
            job(native.read_job(asked))
    for asked in ({"vae": "/x"}, {"id": "mine"}, {"adapters": [{"source": "/x"}]}):
        with pytest.raises(Fault):
            native.read_job(asked)
    with pytest.raises(Fault, match="by a path"):
        job(native.read_job({"request": {"image": {"path": "/etc/passwd"}}}))


def test_an_image_prompt_without_a_name_takes_the_first_adapter() -> None:
    document = job(native.read_job({"request": {"image_prompts": [{"image": DATA}]}}))
    assert [part.name for part in document.needs.adapters] == ["base"]
    assert document.arguments["image_prompts"][0].adapter == "base"
    named = native.read_job(
        {"adapters": ["plus_sd15"], "request": {"image_prompts": [{"image": DATA}]}}
    )
    assert [part.name for part in job(named).needs.adapters] == ["plus_sd15"]


def test_offers_of_a_folder(tmp_path: Path) -> None:
    for name in (
        "checkpoints/a.safetensors",
        "ipadapter/ip.bin",
        "Lora/l.safetensors",
        "loras/x.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    offers = Offers.of([], folder=tmp_path)
    assert list(offers.models) == ["a"]
    assert {kind: list(named) for kind, named in offers.parts.items() if named} == {
        "adapters": ["ip"],
        "loras": ["l"],
    }
    with pytest.raises(RequestError, match="one name"):
        Offers.of(["a=x", "a=y"])
    with pytest.raises(RequestError, match="no such folder"):
        Offers.of(["demo"], folder=tmp_path / "nowhere")


def test_pictures_are_counted_and_never_fetched() -> None:
    limits = Limits(pictures=2, pixels=64 * 64 * 2)
    pictures = CountedPictures(PictureShelf(), limits)
    for address in ("http://127.0.0.1/x.png", "file:///etc/passwd", " HTTPS://x"):
        with pytest.raises(RequestError, match="never fetched"):
            CountedPictures(PictureShelf(), limits).open(address)
        with pytest.raises(RequestError, match="never fetched"):
            CountedPictures(PictureShelf(), limits).open({"data": address})
    pictures.open(DATA)
    pictures.open({"data": f"data:image/png;base64,{DATA}"})
    with pytest.raises(RequestError, match="too many pictures"):
        pictures.open(DATA)
    one = CountedPictures(PictureShelf(), Limits(pixels=64 * 64 + 1))
    one.open(DATA)
    with pytest.raises(RequestError, match=r"too large.*limit is 1"):
        one.open(DATA)
    gif = Image.new("RGB", (4, 4))
    with pytest.raises(RequestError, match="JPEG, MPO, PNG, WEBP"):
        CountedPictures(PictureShelf(), limits).open(_file(gif, "GIF"))


def _file(image: Image.Image, kind: str) -> bytes:
    import io

    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("module", [*IP_ADAPTERS, "none"])
def test_a_unit_of_an_ip_adapter_is_an_image_prompt(module: str) -> None:
    fields = {"model": "PLUS_SD15 [71693645]", "weight": 0.7, "guidance_end": 0.5}
    asked = txt2img(**unit(module=module, **fields))
    (entry,) = asked.request["image_prompts"]
    assert entry == {
        "adapter": "plus_sd15",
        "image": DATA,
        "scale": 0.7,
        "start": 0.0,
        "end": 0.5,
    }
    assert [part.name for part in job(asked).needs.adapters] == ["plus_sd15"]


def test_short_names_are_known_by_their_files_stems() -> None:
    offers = Offers.of(["demo"], {"adapters": ["face=plus-face-sd15"]})
    asked = read_txt2img(
        {**unit(module="ip-adapter-auto", model="ip-adapter-plus-face_sd15 [aa]")}, SETTINGS, offers
    )
    assert asked.request["image_prompts"][0]["adapter"] == "face"


def test_pictures_of_a_unit_in_each_way_that_they_are_written() -> None:
    ways: list[tuple[Any, Any]] = [
        ({"image": DATA, "mask": None}, DATA),
        ([{"image": DATA}, {"image": DATA, "mask": DATA}], [DATA, DATA]),
        ([DATA, DATA], DATA),  # a picture and its mask
    ]
    for given, read in ways:
        asked = txt2img(**unit(module="ip-adapter-auto", image=given))
        assert asked.request["image_prompts"][0]["image"] == read
    weights = {"advanced_weighting": [0.5, 1.0], "effective_region_mask": DATA}
    (entry,) = txt2img(**unit(module="ip-adapter-auto", **weights)).request["image_prompts"]
    assert entry["layers"] == "0:0.5, 1:1.0" and entry["mask"] == DATA


def test_other_units_are_controls() -> None:
    asked = txt2img(**unit(module="edges", model="edges", control_mode=2, weight=0.6))
    (entry,) = asked.request["controls"]
    assert entry["name"] == "edges" and entry["guess_mode"] and entry["scale"] == 0.6
    document = job(asked)
    lines = np.asarray(document.arguments["controls"][0].image)
    assert set(np.unique(lines)) == {0, 255}
    assert [part.name for part in document.needs.controlnets] == ["edges"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (unit(module="depth_midas", model="edges"), "one of none, canny"),
        (unit(module="ip-adapter-auto", model="faceid"), "Offered: base, plus_sd15"),
        (unit(module="ip-adapter_face_id"), "finds faces"),
        (unit(module="ip-adapter-auto", ipadapter_input=["x"]), "ipadapter_input"),
        ({"alwayson_scripts": {"Roop": {"args": [True]}}}, "script Roop not found"),
        ({"enable_hr": True}, "enable_hr is not done"),
        ({"tiling": True}, "tiling is not done"),
        ({"sampler_name": "DPM++ 2S a"}, "nearest"),
        ({"scheduler": "SGM Uniform"}, "Karras"),
        ({"steps": "many"}, "steps must be a whole number"),
        ({"steps": 20.5}, "steps must be a whole number"),
        ({"override_settings": {"sd_model_checkpoint": "nope"}}, "Offered: demo, other"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_can(body: dict[str, Any], words: str) -> None:
    with pytest.raises(Fault) as told:
        job(txt2img(**body))
    assert words in told.value.sentence
    assert told.value.field is not None


def test_scripts_without_a_true_argument_are_passed_over() -> None:
    scripts = {"ADetailer": {"args": [False]}, "ControlNet": {"args": []}, "x": {"args": [None]}}
    assert "image_prompts" not in txt2img(alwayson_scripts=scripts).request
    off = txt2img(**unit(enabled=False, module="nonsense", model="x"))
    empty = txt2img(**unit(image="", module="none", model="None"))
    assert not {"image_prompts", "controls"} & (off.request.keys() | empty.request.keys())


def test_a1111s_meaning() -> None:
    asked = txt2img(
        prompt="a (star:1.2) <lora:pixel:0.5>",
        seed=-1,
        batch_size=2,
        n_iter=3,
        sampler_name="DPM++ 2M",
        scheduler=None,
        override_settings={"CLIP_stop_at_last_layers": 2},
        negative_prompt=None,
    )
    wanted = {
        "prompt": "a (star:1.2) ",
        "prompt_syntax": "a1111",
        "long_prompts": "chunks",
        "num_images": 6,
        "scheduler": "dpmpp_2m_karras",
        "clip_skip": 1,
    }
    assert wanted.items() <= asked.request.items()
    assert 0 <= asked.request["seed"] < 2**32
    assert asked.parts == {"loras": {"pixel": 0.5}}
    document = job(asked)
    assert document.arguments["loras"] == {"pixel": 0.5}
    assert [part.source for part in document.needs.loras] == ["/x/pixel.safetensors"]
    assert txt2img(seed=0).request["seed"] == 0
    assert repr(txt2img(steps=20.0).request["num_inference_steps"]) == "20"  # of JSON's kind


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_listed_sampler_is_ours(sampler: str) -> None:
    assert txt2img(sampler_name=sampler).request["scheduler"] in NAMES
    for kind in SCHEDULERS:
        ours = txt2img(sampler_name="Euler", scheduler=kind).request["scheduler"]
        assert ours in NAMES


def test_from_a_picture() -> None:
    body = {"init_images": [DATA], "mask": DATA, "denoising_strength": 0.6, "mask_blur": 2}
    asked = read_img2img(
        {"prompt": "x", **body, "inpaint_full_res": True, "inpaint_full_res_padding": 8},
        SETTINGS,
        OFFERED,
    )
    told = {"image": DATA, "mask_image": DATA, "strength": 0.6, "mask_blur": 2.0, "overlay": True}
    assert (told | {"padding_mask_crop": 8}).items() <= asked.request.items()
    asked = read_img2img({**body, "inpainting_mask_invert": 1}, SETTINGS, OFFERED)
    pictures = CountedPictures(PictureShelf(), Limits())
    white = Image.new("L", (4, 4), 255)
    assert not np.asarray(asked.request["mask_image"].work(white)).any()
    assert pictures.open(asked.request["mask_image"]).mode == "L"
    with pytest.raises(Fault, match="init_images is needed"):
        read_img2img({"prompt": "x"}, SETTINGS, OFFERED)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"width": 8192, "height": 8}, "width"),
        ({"width": 4096, "height": 4096}, "width"),
        ({"num_images": 500, "num_inference_steps": 100}, "num_images"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"nonsense": 1}, None),
        ({"overlay": None}, "overlay"),
        ({"mask_image": [[None]]}, None),
    ],
)
def test_limits_of_a_request(request_: Mapping[str, Any], field: str | None) -> None:
    with pytest.raises(Fault) as told:
        job(Asked(request=request_))
    assert told.value.status == 422 and told.value.field == field


def test_answers_of_a1111_hold_what_clients_read() -> None:
    """LibreChat: info.infotexts[0], width, height, seed; Open WebUI: info, images."""
    info = {"request": {"prompt": "a", "seed": 3, "width": 64, "height": 32, "scheduler": "ddim"}}
    told = a1111_answers.answer(["x", "y"], {}, info, "demo", [])
    read = json.loads(told["info"])
    assert (read["seed"], read["width"], read["height"]) == (3, 64, 32)
    assert read["all_seeds"] == [3, 4] and len(read["infotexts"]) == 2
    assert "RNG: CPU" in read["infotexts"][0] and "Size: 64x32" in read["infotexts"][0]
    idle = a1111_answers.progress(None, None, 0)
    assert idle["progress"] == 0 and idle["state"]["job_count"] == 0
    assert "forge_preset" not in a1111_answers.options(SETTINGS)


def test_open_webuis_whole_options_may_be_sent_back() -> None:
    assert a1111_answers.options(SETTINGS).keys() >= {"sd_model_checkpoint", "samples_format"}
