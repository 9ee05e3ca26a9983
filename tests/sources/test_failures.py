"""What may go wrong with the hub: each is told in words that say what to do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from oracle.hub import COMMIT, OLDER, OLDER_COMMIT
from oracle.hub_client import NOBODY, Client

MODEL, ADAPTERS, FILES = "someone/tiny-diffusion", "h94/IP-Adapter", "someone/files"
ADAPT = 'ipa.load("demo").load_ip_adapter'
# What is asked for, and words of the message: what is wrong, and what to do.
FAILURES = {
    'ipa.load("someone/nothing")': ("RepositoryNotFound", "hf auth login"),
    'ipa.load("someone/nothing/a.ckpt")': ("someone/nothing is neither here nor on", "spelling"),
    f'ipa.load("{MODEL}", revision="v9")': ("no such revision", "leave revision= out"),
    f'ipa.load("{MODEL}", offline=True)': ("not in the hub's cache", "without offline"),
    f'ipa.load("{FILES}/tiny.safetensors", offline=True)': ("no tiny.safetensors of", "fetch it"),
    f'ipa.load("{MODEL}", variant="bf16")': ("no bf16 weights", "variant="),
    f'ipa.load("{ADAPTERS}")': ("no model_index.json", "FILE.safetensors"),
    f'ipa.load("{FILES}/tiny.ckpt")': ("has no tiny.ckpt", "old/tiny.ckpt"),
    f'ipa.load("{FILES}/old/tiny.ckpt", revision="v9")': ("no such revision", "revision="),
    'ipa.load("a b/c:d")': ("HFValidationError", "owner/name"),
    'ipa.load("none/such/folder")': ("no such model folder", "hub id"),
    'ipa.load("folder/file.safetensors")': ("no such model folder", "folder/file.safetensors"),
    f'{ADAPT}("{ADAPTERS}", weight_name="x.bin")': ("has no x.bin", "check the path"),
    f'{ADAPT}("{ADAPTERS}/models/lineal.safetensors")': ("has no", "models/linear.safetensors"),
    f'{ADAPT}("{ADAPTERS}")': ("which file?", "weight_name="),
    f'{ADAPT}("plus-sd1.5")': ("did you mean 'plus-sd15'", "Known:"),
    f'{ADAPT}("plus-sdxl")': ("has no sdxl_models/ip-adapter-plus_sdxl", "revision="),
    f'{ADAPT}("{ADAPTERS}/models/plus.safetensors", image_encoder_folder="models/none")': (
        "holds no image encoder",
        "config.json",
    ),
}


def test_what_fails_is_told(client: Client) -> None:
    answers = client.run(*FAILURES)
    for (code, words), answer in zip(FAILURES.items(), answers, strict=True):
        assert answer.get("error") == "CheckpointError", code
        assert "remedy" in answer["message"]
        for part in words:
            assert part in answer["message"], code
    assert not [f for f in client.weights() if not f.endswith("/models/plus.safetensors")]


# The hub's answer to whoever asks for files, and words of the message.
CLOSED = {
    (401, "GatedRepo"): ("is gated", "accept the terms", "hf auth login", "HF_TOKEN"),
    (403, "GatedRepo"): ("is gated", "accept the terms", "hf auth login", "HF_TOKEN"),
    (401, "RepoNotFound"): ("private", "hf auth login", "HF_TOKEN"),
    (403, "None"): ("not open to you", "lacks the right", "HF_TOKEN"),
    (404, "EntryNotFound"): ("cannot be downloaded", "try again"),
}


@pytest.mark.parametrize("answer", CLOSED, ids=str)
def test_closed_repositories(answer: tuple[int, str], client: Client) -> None:
    client.hub.closed[MODEL] = client.hub.closed[FILES] = answer
    for told in client.run(f'ipa.load("{MODEL}")', f'ipa.load("{FILES}/tiny.safetensors")'):
        assert told["error"] == "CheckpointError"
        for words in CLOSED[answer]:
            assert words in told["message"]


def test_what_is_here_needs_no_permission(client: Client) -> None:
    """A repository that was closed after it was downloaded."""
    code = f'answer = ipa.load("{MODEL}", backend="mlx").info()["model"]'
    assert client.run(code) == [MODEL]
    client.hub.closed[MODEL] = (403, "GatedRepo")
    assert client.run(code) == [MODEL]


def test_nobody_answers(client: Client) -> None:
    names = (f'ipa.load("{MODEL}")', f'{ADAPT}("{ADAPTERS}/models/plus.safetensors")')
    for answer in client.run(*names, **NOBODY):
        assert answer["error"] == "CheckpointError" and "network" in answer["message"]


def test_without_the_hub_the_cache_serves(client: Client) -> None:
    """Unasked, if the hub does not answer, or if huggingface_hub is told to stay offline."""
    code = f'answer = ipa.load("{MODEL}", backend="mlx").info()["model"]'
    assert client.run(code) == [MODEL]
    assert client.run(code, **NOBODY) == [MODEL]
    assert client.run(code, HF_HUB_OFFLINE="1") == [MODEL]


def test_an_interrupted_download_is_told_offline(client: Client) -> None:
    """Configs and a VAE are here, the UNet is not."""
    client.run(f'ipa.load("{MODEL}")')
    for file in client.cache.rglob("unet/*.safetensors"):
        file.unlink()
    (answer,) = client.run(f'ipa.load("{MODEL}", offline=True)')
    assert "unet: no weights" in answer["message"] and "finish the download" in answer["message"]


WHERE = f"""
from ipa.sources.models import resolve_file
import hashlib
answer = hashlib.sha256(resolve_file("{FILES}/tiny.safetensors").read_bytes()).hexdigest()
"""
PIECE = 1 << 16
# Of the hub's client: no pauses between its attempts, and smaller pieces than its 10 MB.
QUICK = f"""
import time, huggingface_hub.constants
time.sleep = lambda seconds: None
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = {PIECE}
"""


def test_a_broken_connection_goes_on_where_it_broke(client: Client, hub_files: Path) -> None:
    """Twice, in a file of weights: neither from its start again, nor with other bytes."""
    content = (hub_files / "tiny.safetensors").read_bytes()
    client.hub.broken[f"{FILES}/tiny.safetensors"] = 2
    assert client.run(QUICK, WHERE)[1] == hashlib.sha256(content).hexdigest()
    first = len(content) // 2 // PIECE * PIECE
    second = first + (len(content) - first) // 2 // PIECE * PIECE
    asked = [f.partition("@")[2] for f in client.hub.fetched]
    assert asked == ["", str(first), str(second)]


def test_a_connection_that_never_holds(client: Client) -> None:
    """It is an error in words; what had come whole is not fetched again."""
    unet = f"{MODEL}/unet/diffusion_pytorch_model.safetensors"
    client.hub.broken[unet] = 1000
    code = f'answer = ipa.load("{MODEL}", backend="mlx").info()["model"]'
    _, told = client.run(QUICK, code)
    assert told["error"] == "CheckpointError" and "try again" in told["message"]
    # Offline, nothing takes the part for the whole.
    assert "error" in client.run(code.replace('"mlx"', '"mlx", offline=True'))[0]
    before = set(client.hub.fetched) - {unet}
    client.hub.reset()
    assert client.run(code) == [MODEL]
    assert unet in client.hub.fetched and not before & set(client.hub.fetched)


@pytest.mark.parametrize("name", [OLDER, OLDER_COMMIT])
def test_revisions(name: str, client: Client) -> None:
    """A tag or a commit is kept apart from the main branch, also offline."""
    code = (
        "from ipa.sources.models import resolve_model\n"
        f'answer = resolve_model("{MODEL}", **{{}}).scheduler["beta_end"]'
    )
    ask = [code.format(options) for options in ({"revision": name}, {}, {"revision": COMMIT})]
    expected = [0.02, 0.012, 0.012]
    assert client.run(*ask) == expected
    client.hub.fetched.clear()
    offline = [{"revision": name, "offline": True}, {"offline": True}]
    assert client.run(*(code.format(o) for o in offline), **NOBODY) == expected[:2]
    assert client.hub.fetched == []
