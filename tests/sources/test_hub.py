"""Models and adapters by hub id, from a real HTTP server in the hub's place."""

from __future__ import annotations

from oracle.hub import OLDER
from oracle.hub_client import NOBODY, Client

MODEL, ADAPTERS = "someone/tiny-diffusion", "h94/IP-Adapter"
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
    assert client.weights() == [
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
    assert client.run(code) == [first]
    assert client.run(offline, **NOBODY) == [first]
    assert client.hub.fetched == []


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


def test_one_rule_for_names(client: Client) -> None:
    """A repository and a file in it, or the whole path: the same adapter and encoder."""
    code = (
        "from ipa.sources.adapters import resolve_adapter\n"
        f'ways = [resolve_adapter("{ADAPTERS}/models/plus.safetensors"), '
        f'resolve_adapter("{ADAPTERS}", subfolder="models", weight_name="plus.safetensors"), '
        f'resolve_adapter("{ADAPTERS}/models/plus.safetensors", offline=True)]\n'
        "answer = [[f.name, str(f.weights), str(f.image_encoder)] for f in ways]"
    )
    (answer,) = client.run(code)
    assert answer[0] == answer[1] == answer[2]
    name, weights, encoder = answer[0]
    assert name == "plus" and weights.endswith("models/plus.safetensors")
    assert encoder.endswith("models/image_encoder")
    assert client.weights() == [
        f"{ADAPTERS}/models/image_encoder/model.safetensors",
        f"{ADAPTERS}/models/plus.safetensors",
    ]


def test_an_adapter_by_its_whole_path(client: Client) -> None:
    """A pickle, on a model that has an encoder of its own as well."""
    path = f"{ADAPTERS}/models/ip-adapter_sd15_light_v11.bin"
    load = f'pipe = ipa.load("{MODEL}"); name = pipe.load_ip_adapter("{path}"); '
    (answer,) = client.run(load + 'answer = [name, pipe.info()["adapters"][name]]')
    name, info = answer
    assert name == "ip-adapter_sd15_light_v11"
    assert info["projector"] == "linear" and info["image_encoder"].endswith("models/image_encoder")


def test_learned_words_by_name(client: Client) -> None:
    code = (
        f'pipe = ipa.load("{MODEL}", dtype="float32"); '
        'whole = "someone/cat-toy"; '
        "answer = [pipe.load_textual_inversion(whole)]; "
        'answer.append(pipe.load_textual_inversion(whole + "/learned_embeds.bin", "<other>")); '
        'answer.append(pipe.load_textual_inversion(whole, "<third>", offline=True))'
    )
    answer, missing = client.run(code, 'pipe.load_textual_inversion(whole, weight_name="x.pt")')
    assert answer == ["<cat-toy>", "<other>", "<third>"]
    fetched = {f for f in client.hub.fetched if f.startswith("someone/cat-toy/")}
    names = ("learned_embeds.safetensors", "learned_embeds.bin")
    assert fetched == {f"someone/cat-toy/{name}" for name in names}
    assert missing["error"] == "CheckpointError" and "x.pt" in missing["message"]


def test_a_lora_of_a_revision(client: Client) -> None:
    """The older one has another rank; each revision is kept beside the other."""
    load = f'pipe = ipa.load("{MODEL}", dtype="float32"); answer = []'
    one = (
        'pipe.load_lora("someone/pixel", name="a", {}); '
        'answer = pipe.info()["loras"]["a"]["bytes"]; pipe.unload_lora()'
    )
    older = f'revision="{OLDER}"'
    _, new, old, *offline, missing = client.run(
        load,
        *(one.format(words) for words in ("", older, "offline=True", f"{older}, offline=True")),
        one.format('revision="v7"'),
    )
    assert [new / 4, old / 4] == [2 * (40 + 24), 3 * (40 + 24)]
    assert offline == [new, old]
    assert missing["error"] == "CheckpointError" and "no such revision" in missing["message"]
    name = "someone/pixel/pytorch_lora_weights.safetensors"
    assert [file for file in client.hub.fetched if file.startswith("someone/pixel")] == [name] * 2
