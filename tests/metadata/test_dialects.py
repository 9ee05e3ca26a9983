"""Pictures of other programs: what of their requests becomes ours, and what is said to be lost."""

from __future__ import annotations

import io
import json
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipa import RequestError
from ipa.metadata.container import read_contents
from ipa.metadata.dialects.foreign import Foreign
from ipa.metadata.reading import Told, read_told
from ipa.metadata.user_comment import exif_bytes
from ipa.metadata.writing import picture_file
from ipa.pipeline.request_file import read_request

A1111 = (
    "masterpiece, a cat <lora:pixel_art:0.7>\non two lines\nNegative prompt: blurry,\nlow quality\n"
    "Steps: 25, Sampler: DPM++ SDE Karras, CFG scale: 6.5, Seed: 42, Size: 512x768, "
    "Model hash: 879db523c3, Model: dreamshaper_8, Clip skip: 2, ENSD: 31337, ControlNet 0: "
    '"Module: ip-adapter_clip_sd15, Model: ip-adapter-plus_sd15 [32cd8f7f], Weight: 0.7", '
    'Lora hashes: "pixel_art: 0123456789ab", Version: v1.9.4'
)

COMFYUI = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 7,
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["12", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd\\dream.safetensors"}},
    "5": {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 512, "height": 640, "batch_size": 1},
    },
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["10", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "grey", "clip": ["10", 1]}},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {
            "lora_name": "pixel.safetensors",
            "strength_model": 0.8,
            "model": ["4", 0],
            "clip": ["4", 1],
        },
    },
    "11": {"class_type": "LoadImage", "inputs": {"image": "style.png"}},
    "12": {
        "class_type": "IPAdapterAdvanced",
        "inputs": {
            "weight": 0.6,
            "weight_type": "style transfer",
            "start_at": 0.0,
            "end_at": 0.8,
            "model": ["10", 0],
            "image": ["11", 0],
            "ipadapter": ["13", 0],
        },
    },
    "13": {
        "class_type": "IPAdapterModelLoader",
        "inputs": {"ipadapter_file": "ip-adapter_sd15.safetensors"},
    },
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
}
INVOKEAI = {
    "app_version": "5.0",
    "positive_prompt": "a cat",
    "negative_prompt": "grey",
    "width": 512,
    "height": 640,
    "seed": 7,
    "rand_device": "cpu",
    "cfg_scale": 8.0,
    "steps": 20,
    "scheduler": "dpmpp_2m_k",
    "model": {"key": "x", "hash": "blake3:12ab", "name": "dream", "base": "sd-1", "type": "main"},
    "ipAdapters": [
        {
            "image": {"image_name": "abc.png"},
            "ip_adapter_model": {"name": "ip_adapter_sd15", "hash": "blake3:ff"},
            "method": "style",
            "weight": 0.6,
            "begin_step_percent": 0,
            "end_step_percent": 0.8,
        }
    ],
    "hrf_enabled": True,
}
SWARMUI = {
    "sui_image_params": {
        "prompt": "a cat",
        "negativeprompt": "grey",
        "model": "dream",
        "seed": 7,
        "steps": 20,
        "cfgscale": 8.0,
        "width": 512,
        "height": 640,
        "sampler": "dpmpp_2m",
        "scheduler": "karras",
        "loras": ["pixel"],
        "loraweights": ["0.8"],
        "swarm_version": "0.9",
        "refinermethod": "PostApply",
    }
}
FOOOCUS = {
    "prompt": "a cat",
    "negative_prompt": "grey",
    "steps": 20,
    "guidance_scale": 8.0,
    "resolution": "(512, 640)",
    "base_model": "dream",
    "base_model_hash": "12ab",
    "sampler": "dpmpp_2m_gpu",
    "scheduler": "karras",
    "seed": "7",
    "loras": [["pixel", 0.8, "99ff"]],
    "sharpness": 2.0,
    "version": "Fooocus v2.5.5",
}
DRAWTHINGS = {
    "c": "a cat",
    "uc": "grey",
    "steps": 20,
    "sampler": "DPM++ 2M Karras",
    "scale": 8.0,
    "seed": 7,
    "size": "512x640",
    "model": "dream",
    "strength": 1,
    "clip_skip_x": 3,
}
SAME = {
    "prompt": "a cat",
    "negative_prompt": "grey",
    "width": 512,
    "height": 640,
    "seed": 7,
    "guidance_scale": 8.0,
    "num_inference_steps": 20,
    "scheduler": "dpmpp_2m_karras",
}


def png(texts: dict[str, str]) -> bytes:
    chunk, file = PngInfo(), io.BytesIO()
    for key, text in texts.items():
        chunk.add_text(key, text)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=chunk)
    return file.getvalue()


def xmp_png(comment: str) -> bytes:
    """As Draw Things writes it."""
    body = comment.replace("&", "&amp;").replace("<", "&lt;")
    return png(
        {
            "XML:com.adobe.xmp": '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
            '"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
            'xmlns:exif="http://ns.adobe.com/exif/1.0/"><exif:UserComment><rdf:Alt>'
            f'<rdf:li xml:lang="x-default">{body}</rdf:li></rdf:Alt></exif:UserComment>'
            "</rdf:Description></rdf:RDF></x:xmpmeta>"
        }
    )


def jpeg(comment: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=exif_bytes(comment, "x"))
    return file.getvalue()


def told(file: bytes) -> Foreign:
    return read_told(file).foreign[0]


FLAT = {
    "ComfyUI": (png({"prompt": json.dumps(COMFYUI), "workflow": "{}"}), "picture style.png"),
    "InvokeAI": (png({"invokeai_metadata": json.dumps(INVOKEAI)}), "picture abc.png"),
    "SwarmUI": (png({"parameters": json.dumps(SWARMUI)}), "refinermethod"),
    "Fooocus": (png({"parameters": json.dumps(FOOOCUS)}), "sharpness: 2.0"),
    "Draw Things": (xmp_png(json.dumps(DRAWTHINGS)), "clip_skip_x: 3"),
}


@pytest.mark.parametrize("tool", FLAT)
def test_one_request_in_every_program_s_words(tool: str) -> None:
    file, lost = FLAT[tool]
    found = told(file)
    assert found.tool == tool
    assert {name: found.arguments.get(name) for name in SAME} == SAME
    assert any(one.role == "model" and one.name.startswith("dream") for one in found.weights)
    assert any(lost in words for words in found.lost), found.lost


@pytest.mark.parametrize("file", [png({"parameters": A1111}), jpeg(A1111)], ids=["PNG", "JPEG"])
def test_a1111(file: bytes) -> None:
    found = told(file)
    assert found.arguments == {
        "prompt": "masterpiece, a cat <lora:pixel_art:0.7>\non two lines",
        "negative_prompt": "blurry,\nlow quality",
        "prompt_syntax": "a1111",
        "long_prompts": "chunks",
        "num_inference_steps": 25,
        "scheduler": "dpmpp_sde_karras",
        "guidance_scale": 6.5,
        "seed": 42,
        "width": 512,
        "height": 768,
        "clip_skip": 1,
    }
    words = [one.words() for one in found.weights]
    assert "model dreamshaper_8 (hash 879db523c3)" in words
    assert "LoRA pixel_art (hash 0123456789ab) at 0.7" in words
    assert len(found.lost) == 3  # the noise, the unit, ENSD
    assert any("RNG" in one for one in found.lost) and "ENSD: 31337" in found.lost


def test_other_places_of_the_same() -> None:
    assert told(jpeg(json.dumps(SWARMUI))).tool == "SwarmUI"
    assert told(jpeg(json.dumps(DRAWTHINGS))).tool == "Draw Things"
    assert told(png({"Comment": json.dumps(FOOOCUS)})).tool == "Fooocus"


def test_a_request_file(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png({"parameters": A1111}))
    found = read_request(path)
    assert found.tool == "A1111 or Forge" and found.arguments["seed"] == 42
    assert found.lost and found.weights and found.described is None


def test_a_picture_that_says_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(RequestError, match="says nothing of its request"):
        read_request(tmp_path / "x.png")


# Hostile files.

DEEP = "[" * 100_000
HOSTILE_TEXTS: dict[str, dict[str, str]] = {
    "deep JSON": {"prompt": DEEP, "invokeai_metadata": DEEP, "parameters": "{" + DEEP},
    "wrong types": {
        "invokeai_metadata": json.dumps({**{key: [1] for key in INVOKEAI}, "ipAdapters": [3, {}]}),
        "prompt": json.dumps(
            {"1": {"class_type": "KSampler", "inputs": {key: [] for key in "abc"}}}
        ),
        "parameters": json.dumps(
            {"sui_image_params": {k: {} for k in SWARMUI["sui_image_params"]}}
        ),
    },
    "a circle": {
        "prompt": json.dumps(
            {
                "1": {"class_type": "KSampler", "inputs": {"positive": ["2", 0], "seed": ["2", 0]}},
                "2": {"class_type": "X", "inputs": {"a": ["1", 0], "b": ["2", 0]}},
            }
        )
    },
    "huge numbers": {
        "invokeai_metadata": '{"seed": 1e400, "steps": '
        + "9" * 4000
        + ', "width": -5, "cfg_scale": NaN}',
        "parameters": "x\nSteps: " + "9" * 5000 + ", Sampler: x, Seed: -1, Size: 0x99999999999",
    },
    "entities": {
        "XML:com.adobe.xmp": '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    },
    "no XML": {"XML:com.adobe.xmp": "<x:xmpmeta"},
}


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_hostile_texts_are_told_and_not_obeyed(name: str) -> None:
    found = read_told(png(HOSTILE_TEXTS[name]))
    assert isinstance(found, Told) and found.ours is None
    assert found.unread or any(foreign.lost for foreign in found.foreign)
    for foreign in found.foreign:
        assert all(len(words) < 2000 for words in foreign.lost)


def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + check


def with_chunk(data: bytes, kind: bytes = b"zTXt") -> bytes:
    file = png({})
    return file[:33] + chunk(kind, data) + file[33:]


BOMB = zlib.compress(bytes(64 << 20), 9)
HOSTILE_FILES = {
    "a text bomb": with_chunk(b"ipa-mlx\0\0" + BOMB),
    "a bomb in iTXt": with_chunk(b"ipa-mlx\0\1\0\0\0" + BOMB, b"iTXt"),
    "no deflate": with_chunk(b"ipa-mlx\0\0xx"),
    "no UTF-8": with_chunk(b"ipa-mlx\0\0\0\0\0\xff\xfe", b"iTXt"),
    "cut off": with_chunk(b"ipa-mlx\0x", b"tEXt")[:46],
    "another header": b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"ipa-mlx\0{}"),
    "a wrong check": with_chunk(b"ipa-mlx\0{}", b"tEXt").replace(b"ipa-mlx\0{}", b"ipa-mlx\0[]"),
    "a long chunk": png({})[:33] + b"\xff\xff\xff\xfftEXt",
    "no picture": b"hello",
    "nothing": b"",
    "a GIF": b"GIF89a" + bytes(40),
    "our text is no JSON": png({"ipa-mlx": "{"}),
    "our text is deep": png({"ipa-mlx": DEEP}),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_hostile_files_are_refused(name: str) -> None:
    with pytest.raises(RequestError):
        read_told(HOSTILE_FILES[name], "x")


def test_a_picture_of_many_pixels_is_not_decoded() -> None:
    """Its header alone is read: 2 GB of pixels would follow."""
    header = (30_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tEXt", b"parameters\0a, cat")
    assert read_contents(file).size == (30_000, 30_000)


GOOD = [png({"parameters": A1111, "prompt": json.dumps(COMFYUI)}), jpeg(A1111)]
GOOD.append(picture_file(Image.new("RGB", (8, 8)), {"request": {"prompt": "x"}}, kind="WEBP").data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutants_give_our_errors_alone(data: Any) -> None:
    file = bytearray(data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(file) - 1))
        file[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
    with suppress(RequestError):
        read_told(bytes(file), "x")
