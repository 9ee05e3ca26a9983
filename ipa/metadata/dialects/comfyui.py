"""ComfyUI's graph (`prompt`): the sampler, and what can be reached from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .foreign import Foreign, Reading, as_integer
from .simple import comfyui_sampler, stem

Node = Mapping[str, Any]
_SAMPLERS = ("KSampler", "KSamplerAdvanced")
_MOST_NODES = 5000
# Nodes that say nothing which a call of ours would have.
_SILENT = ("VAEDecode", "VAEEncode", "SaveImage", "PreviewImage", "CLIPSetLastLayer", "Note")


def read_comfyui(graph: Mapping[str, Any]) -> Foreign:
    """What a graph says: of its first sampler, and of all that this reads."""
    nodes = {
        str(number): node
        for number, node in graph.items()
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
    }
    reading = Reading("ComfyUI", {})
    if len(nodes) > _MOST_NODES:
        reading.lost.append(f"a graph of {len(nodes)} nodes")
        return reading.done()
    found = [(k, n) for k, n in nodes.items() if n.get("class_type") in _SAMPLERS]
    if not found:
        reading.lost.append("a graph without KSampler")
        return reading.done()
    reading.lost += [f"a second sampler, node {number}" for number, _ in found[1:]]
    Graph(nodes, reading).read(found[0][0])
    return reading.done()


class Graph:
    """A graph that is read from a sampler upwards."""

    def __init__(self, nodes: Mapping[str, Node], reading: Reading) -> None:
        self.nodes, self.reading = nodes, reading

    def read(self, sampler: str) -> None:
        """Read a sampler and what it depends on."""
        inputs, reading = self.nodes[sampler]["inputs"], self.reading
        reading.arguments |= {
            "prompt_syntax": "comfyui",
            "long_prompts": "chunks",
            "profile": "comfyui",
        }
        reading.put("prompt", self._text(inputs.get("positive")), "not found in the graph")
        negative = self._text(inputs.get("negative"))
        if negative:
            reading.put("negative_prompt", negative, negative)
        numbers = {
            "seed": ("seed", "noise_seed"),
            "num_inference_steps": ("steps",),
            "guidance_scale": ("cfg",),
        }
        for name, keys in numbers.items():
            value = next((self._value(inputs.get(key)) for key in keys if key in inputs), None)
            reading.put(name, value, value)
        levels = self._value(inputs.get("scheduler"))
        reading.sampler(*comfyui_sampler(self._value(inputs.get("sampler_name")), levels))
        self._latents(inputs)
        seen = set(self._above(sampler))
        for number in sorted(seen - {sampler}):
            self._node(self.nodes[number])

    def _latents(self, inputs: Mapping[str, Any]) -> None:
        """The size of empty latents; or the start picture, with its strength."""
        for number in self._above_link(inputs.get("latent_image")):
            node = self.nodes[number]
            kind, given = str(node.get("class_type")), node["inputs"]
            if kind == "LoadImage":
                self.reading.lost.append(f"the start picture {stem(given.get('image'))!s:.80}")
                strength = self._value(inputs.get("denoise"))
                self.reading.put("strength", strength, strength)
            if kind.startswith("EmptyLatent"):
                for name in ("width", "height"):
                    side = self._value(given.get(name))
                    self.reading.put(name, side, side)
                count = as_integer(self._value(given.get("batch_size")))
                if count and count > 1:
                    self.reading.lost.append(f"a batch of {count}, of which this is one")
            if kind.startswith("EmptyLatent") or kind == "LoadImage":
                return

    def _node(self, node: Node) -> None:
        kind, given = str(node.get("class_type", ""))[:80], node["inputs"]
        reading = self.reading
        if kind.startswith("CheckpointLoader"):
            reading.named("model", stem(given.get("ckpt_name")))
        elif kind.startswith("LoraLoader"):
            reading.named("LoRA", stem(given.get("lora_name")), "", given.get("strength_model"))
        elif kind == "VAELoader":
            reading.named("VAE", stem(given.get("vae_name")))
        elif kind == "ControlNetLoader":
            reading.named("control", stem(given.get("control_net_name")))
        elif kind == "IPAdapterModelLoader":
            reading.named("adapter", stem(given.get("ipadapter_file")))
        elif kind == "CLIPSetLastLayer":
            layer = as_integer(given.get("stop_at_clip_layer"))
            reading.put("clip_skip", None if layer is None else -layer - 1, layer)
        elif kind.startswith(("IPAdapter", "ControlNetApply")):
            values = {k: v for k, v in given.items() if not isinstance(v, (list, dict))}
            words = ", ".join(f"{k} {v!s:.40}" for k, v in list(values.items())[:12])
            reading.lost.append(f"{kind} of {self._picture(given)}: {words}")
        elif kind not in _SILENT and not kind.startswith(("CLIP", "LoadImage", "EmptyLatent")):
            reading.lost.append(f"node {kind}")

    def _picture(self, given: Mapping[str, Any]) -> str:
        """The name of the picture that a node takes."""
        for number in self._above_link(given.get("image")):
            node = self.nodes[number]
            if node.get("class_type") == "LoadImage":
                return f"picture {stem(node['inputs'].get('image'))!s:.80}"
        return "a picture that the graph makes"

    def _text(self, link: Any) -> str | None:
        """The text nearest to a link upwards: that of the first node that encodes one."""
        for number in self._above_link(link):
            given = self.nodes[number]["inputs"]
            for key in ("text", "text_g", "string", "value"):
                value = given.get(key)
                if isinstance(value, str):
                    return value
        return None

    def _value(self, value: Any) -> Any:
        """A value, or that of the primitive node that it is linked to."""
        if not isinstance(value, list):
            return value
        node = self.nodes.get(str(value[0])) if value else None
        given = node["inputs"] if node else {}
        keys = ("value", "seed", "int", "float", "noise_seed")
        found = [given[k] for k in keys if isinstance(given.get(k), (int, float, str))]
        return found[0] if found else None

    def _above_link(self, link: Any) -> Iterator[str]:
        if isinstance(link, list) and link and str(link[0]) in self.nodes:
            yield from self._above(str(link[0]))

    def _above(self, start: str) -> Iterator[str]:
        """A node and those that it depends on, the nearest first, each once."""
        seen, queue = {start}, [start]
        while queue:
            number = queue.pop(0)
            yield number
            for value in self.nodes[number]["inputs"].values():
                above = str(value[0]) if isinstance(value, list) and value else None
                if above is not None and above in self.nodes and above not in seen:
                    seen.add(above)
                    queue.append(above)
