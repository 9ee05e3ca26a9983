"""Models and adapters by hub id, from a real HTTP server in the hub's place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from oracle.hub import COMMIT, LocalHub, serve

MODEL, ADAPTERS = "someone/tiny-diffusion", "h94/IP-Adapter"
# A fresh process: huggingface_hub reads its environment once, on import.
PROGRAM = """
import json, sys
import ipa
answers = []
for code in sys.argv[1:]:
    answer = {}
    try:
        exec(code)
    except ipa.IpaError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    answers.append(answer)
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Client:
    """A program on a machine whose hub is ours."""

    hub: LocalHub
    cache: Path

    def run(self, *codes: str, **environment: str) -> list[Any]:
        """What each piece of code left in `answer`, or the error that it raised."""
        fresh = self.hub.environment(self.cache)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *codes],
            env=os.environ | fresh | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hub(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """A model with files of two precisions, and adapters in h94's layout."""
    root = tmp_path_factory.mktemp("hub")
    shutil.copytree(tiny, root / "model", ignore=shutil.ignore_patterns("*.safetensors.*", "*.bin"))
    # Some repositories repeat a ControlNet that they were saved with.
    shutil.copytree(root / "model" / "unet", root / "model" / "controlnet")
    for folder in ("unet", "vae", "text_encoder", "image_encoder", "controlnet"):
        for file in (root / "model" / folder).glob("*.safetensors"):
            shutil.copy(file, file.with_suffix(".fp16.safetensors"))
            shutil.copy(file, file.with_suffix(".non_ema.safetensors"))
            file.with_suffix(".bin").write_bytes(b"\x80\x02")
    shutil.copytree(tiny / "image_encoder", root / "adapters" / "models" / "image_encoder")
    for kind in ("linear", "plus"):
        shutil.copy(tiny / f"{kind}.safetensors", root / "adapters" / "models")
    for kind, name in (("linear", "ip-adapter_sd15"), ("plus", "ip-adapter-plus_sd15")):
        public = root / "adapters" / "models" / f"{name}.safetensors"
        shutil.copy(tiny / f"{kind}.safetensors", public)
    light = root / "adapters" / "models" / "ip-adapter_sd15_light_v11.bin"
    torch.save(load_file(tiny / "linear.safetensors"), light)
    composition = root / "composition" / "ip_plus_composition_sd15.safetensors"
    composition.parent.mkdir()
    shutil.copy(tiny / "plus.safetensors", composition)
    repositories = {
        MODEL: root / "model",
        ADAPTERS: root / "adapters",
        "ostris/ip-composition-adapter": root / "composition",
    }
    with serve(repositories) as running:
        yield running


@pytest.fixture
def client(hub: LocalHub, tmp_path: Path) -> Client:
    """With an empty cache, and nothing asked for yet."""
    hub.fetched.clear()
    return Client(hub, tmp_path / "cache")


LOAD = f"""
pipe = ipa.load("{MODEL}", dtype="float32", **{{options}})
name = pipe.load_ip_adapter("{ADAPTERS}", subfolder="models", weight_name="linear.safetensors",
                            **{{adapter_options}})
answer = {{{{"model": pipe.info()["model"], "name": name,
           "encoder": pipe.info()["adapters"][name]["image_encoder"]}}}}
"""


def test_a_model_and_an_adapter_by_name(client: Client) -> None:
    (answer,) = client.run(LOAD.format(options={"variant": "fp16"}, adapter_options={}))
    assert answer["model"] == MODEL and answer["name"] == "linear"
    assert answer["encoder"].endswith("models/image_encoder")
    weights = sorted(f for f in client.hub.fetched if f.endswith(("safetensors", "bin")))
    assert weights == [
        f"{ADAPTERS}/models/image_encoder/model.safetensors",
        f"{ADAPTERS}/models/linear.safetensors",
        f"{MODEL}/image_encoder/model.fp16.safetensors",
        f"{MODEL}/text_encoder/model.fp16.safetensors",
        f"{MODEL}/unet/diffusion_pytorch_model.fp16.safetensors",
        f"{MODEL}/vae/diffusion_pytorch_model.fp16.safetensors",
    ]


def test_the_second_time_nothing_is_fetched_and_offline_works(client: Client) -> None:
    code = LOAD.format(options={}, adapter_options={})
    (first,) = client.run(code)
    assert any(f.endswith("unet/diffusion_pytorch_model.safetensors") for f in client.hub.fetched)
    assert not any("fp16" in f or "non_ema" in f for f in client.hub.fetched)
    client.hub.fetched.clear()
    offline = LOAD.format(options={"offline": True}, adapter_options={"offline": True})
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert client.run(code) == [first]
    assert client.run(offline, **nobody) == [first]
    assert client.hub.fetched == []


FAILURES = {
    'ipa.load("someone/nothing")': "RepositoryNotFound",
    f'ipa.load("{MODEL}", revision="v9")': "RevisionNotFound",
    f'ipa.load("{MODEL}", offline=True)': "LocalEntryNotFound",
    f'ipa.load("{MODEL}", variant="bf16")': "variant=",
    f'ipa.load("{ADAPTERS}")': "model_index.json",
    'ipa.load("a b/c:d")': "HFValidationError",
    f'ipa.load("demo").load_ip_adapter("{ADAPTERS}", weight_name="x.bin")': "weight_name=",
    'ipa.load("demo").load_ip_adapter("plus-sd1.5")': "did you mean 'plus-sd15'",
    'ipa.load("demo").load_ip_adapter("plus-sdxl")': "has no sdxl_models/ip-adapter-plus_sdxl",
}


def test_what_fails_is_told(client: Client) -> None:
    answers = client.run(*FAILURES)
    for words, answer in zip(FAILURES.values(), answers, strict=True):
        assert answer["error"] == "CheckpointError"
        assert words in answer["message"] and "remedy" in answer["message"]


def test_nobody_answers(client: Client) -> None:
    (answer,) = client.run(f'ipa.load("{MODEL}")', HF_ENDPOINT="http://127.0.0.1:9")
    assert answer["error"] == "CheckpointError" and "network" in answer["message"]


def test_a_commit_can_be_named(client: Client) -> None:
    code = 'answer = ipa.load("{}", revision="{}").info()["model"]'
    assert client.run(code.format(MODEL, COMMIT)) == [MODEL]


def test_public_adapters_by_short_name(client: Client) -> None:
    """Only the file and its encoder are fetched; an encoder may lie in another repository."""
    code = (
        f'pipe = ipa.load("{MODEL}", dtype="float32"); '
        'names = ("plus-sd15", "composition-sd15", "light-sd15"); '
        "names = [pipe.load_ip_adapter(n) for n in names]; "
        'answer = [[n, pipe.info()["adapters"][n]["projector"]] for n in names]'
    )
    (answer,) = client.run(code)
    kinds = {"plus-sd15": "resampler", "composition-sd15": "resampler", "light-sd15": "linear"}
    assert dict(answer) == kinds
    fetched = {f for f in client.hub.fetched if not f.startswith(MODEL)}
    assert {f for f in fetched if f.endswith(".safetensors")} == {
        f"{ADAPTERS}/models/ip-adapter-plus_sd15.safetensors",
        f"{ADAPTERS}/models/image_encoder/model.safetensors",
        "ostris/ip-composition-adapter/ip_plus_composition_sd15.safetensors",
    }


def test_fetch(client: Client, tmp_path: Path) -> None:
    """Fetch here, then use without the hub."""

    def ipa_mlx(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name("ipa-mlx")
        fresh = os.environ | client.hub.environment(client.cache) | environment
        return subprocess.run(
            [program, *words], env=fresh, capture_output=True, text=True, cwd=tmp_path
        )

    model = ipa_mlx("fetch", MODEL, "--variant", "fp16")
    assert model.returncode == 0 and (Path(model.stdout.strip()) / "unet").is_dir()
    found = json.loads(ipa_mlx("fetch", "base-sd15", "--json").stdout)
    assert found["path"].endswith("ip-adapter_sd15.safetensors")
    assert (Path(found["image_encoder"]) / "config.json").is_file()
    path = ipa_mlx("fetch", f"{ADAPTERS}/models/plus.safetensors").stdout.splitlines()[0]
    assert Path(path).name == "plus.safetensors"
    Image.new("RGB", (30, 20), "teal").save(tmp_path / "style.png")
    words = ["-m", MODEL, "--variant", "fp16", "-a", "base-sd15", "-i", "style.png"]
    size = ["--width", "40", "--height", "32", "--steps", "1", "--offline"]
    made = ipa_mlx("generate", *words, *size, HF_ENDPOINT="http://127.0.0.1:9")
    assert made.returncode == 0, made.stderr
    missing = ipa_mlx("fetch", "someone/nothing")
    assert missing.returncode == 3 and "RepositoryNotFound" in missing.stderr
    assert "plus-face-sd15" in ipa_mlx("fetch").stdout
