"""`ipa-mlx fetch`, and the other commands on names of the hub."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from oracle.hub_client import NOBODY, Client

MODEL, ADAPTERS, FILES = "someone/tiny-diffusion", "h94/IP-Adapter", "someone/files"
CONTROL = "someone/control"


def test_fetch_here_and_use_without_the_hub(client: Client, tmp_path: Path) -> None:
    model = client.ipa_mlx("fetch", MODEL, "--variant", "fp16")
    assert model.returncode == 0 and (Path(model.stdout.strip()) / "unet").is_dir()
    found = json.loads(client.ipa_mlx("fetch", "base-sd15", "--json").stdout)
    assert found["path"].endswith("ip-adapter_sd15.safetensors")
    assert (Path(found["image_encoder"]) / "config.json").is_file()
    Image.new("RGB", (30, 20), "teal").save(tmp_path / "style.png")
    adapter = f"look={ADAPTERS}/models/ip-adapter_sd15.safetensors"
    words = ["-m", MODEL, "--variant", "fp16", "-a", adapter, "-i", "look=style.png"]
    size = ["--width", "40", "--height", "32", "--steps", "1", "--offline"]
    made = client.ipa_mlx("generate", *words, *size, **NOBODY)
    assert made.returncode == 0, made.stderr
    missing = client.ipa_mlx("fetch", "someone/nothing")
    assert missing.returncode == 3 and "RepositoryNotFound" in missing.stderr
    assert "plus-face-sd15" in client.ipa_mlx("fetch").stdout


def test_any_file_by_its_path(client: Client) -> None:
    """An adapter brings its encoder; a LoRA and a whole model leave one where it is."""
    adapter = client.ipa_mlx("fetch", f"{ADAPTERS}/models/plus.safetensors").stdout.splitlines()
    assert [Path(line).name for line in adapter] == ["plus.safetensors", "image_encoder"]
    client.hub.reset()
    for name in ("style.safetensors", "old/tiny.ckpt"):
        done = client.ipa_mlx("fetch", f"{FILES}/{name}", "--json")
        found = json.loads(done.stdout)
        assert found["path"].endswith(name) and Path(found["path"]).is_file()
        assert found["image_encoder"] is None
        again = client.ipa_mlx("fetch", f"{FILES}/{name}", "--json", "--offline", **NOBODY)
        assert json.loads(again.stdout) == found
    assert client.hub.fetched == [f"{FILES}/style.safetensors", f"{FILES}/old/tiny.ckpt"]


def test_a_component_alone(client: Client) -> None:
    """A ControlNet's repository: its config, and the weights of one precision."""
    for variant, tag in (((), ""), (("--variant", "fp16"), ".fp16")):
        client.hub.reset()
        done = client.ipa_mlx("fetch", CONTROL, *variant)
        folder = Path(done.stdout.strip())
        weights = f"diffusion_pytorch_model{tag}.safetensors"
        assert (folder / weights).is_file(), done.stderr
        fetched = {f"{CONTROL}/{weights}"} | (set() if tag else {f"{CONTROL}/config.json"})
        assert set(client.hub.fetched) == fetched
    offline = client.ipa_mlx("fetch", CONTROL, "--offline", "--json", **NOBODY)
    assert json.loads(offline.stdout)["path"] == str(folder)
    assert client.ipa_mlx("inspect", str(folder)).stdout.count("Stable Diffusion UNet") >= 1
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    part = client.ipa_mlx("fetch", CONTROL, "--offline")
    assert part.returncode == 3 and "as the cache has it, has no plain weights" in part.stderr
    missing = client.ipa_mlx("fetch", CONTROL, "--variant", "bf16")
    assert missing.returncode == 3 and "no bf16 weights" in missing.stderr
    neither = client.ipa_mlx("fetch", FILES)
    assert neither.returncode == 3 and "neither a model nor a component" in neither.stderr
    assert "style.safetensors" in neither.stderr


def test_inspect_a_file_of_the_hub(client: Client) -> None:
    name = f"{ADAPTERS}/models/plus.safetensors"
    first = client.ipa_mlx("inspect", name, "--json")
    assert json.loads(first.stdout)["family"] == "IP-Adapter"
    assert client.hub.fetched == [name]
    assert client.ipa_mlx("inspect", name, "--offline", "--json", **NOBODY).stdout == first.stdout
    folder = client.cache.parent / "h94" / "IP-Adapter" / "models"
    folder.mkdir(parents=True)
    (folder / "plus.safetensors").write_bytes(b"")
    here = client.ipa_mlx("inspect", name)
    assert here.returncode == 3 and "an empty file" in here.stderr


def test_a_single_file_as_a_model(client: Client, tiny: Path) -> None:
    """Its widths are no public model's: with its own configs it loads, without it is refused."""
    name = f"{FILES}/old/tiny.ckpt"
    for words in (("generate", "-m", name), ("convert", name, "converted")):
        refused = client.ipa_mlx(*words)
        assert refused.returncode == 3 and "tiny.ckpt" in refused.stderr, refused.stderr
    assert client.hub.fetched == [name]
    code = (
        "from ipa.sources.models import resolve_model\n"
        f'model = resolve_model("{name}", config="{tiny}")\n'
        'answer = [model.name, ipa.load(model, backend="mlx")("", num_inference_steps=1, '
        'output_type="latent").latents.shape]'
    )
    assert client.run(code) == [[name, [1, 4, 8, 8]]]
    done = client.ipa_mlx("convert", name, "converted", "--config", str(tiny), "--verify", "--json")
    assert json.loads(done.stdout)["verified"] > 100, done.stderr
    adapter = f"{ADAPTERS}/models/plus.safetensors"
    done = client.ipa_mlx("convert", adapter, "plus.safetensors", "--config", str(tiny), "--json")
    assert json.loads(done.stdout)["kind"] == "adapter", done.stderr
    (answer,) = client.run(f'{code.splitlines()[0]}; resolve_model("{MODEL}", ema=True)')
    assert answer["error"] == "RequestError" and "single files" in answer["message"]
