"""IP-Adapter files in every spelling, under the names of the original repository.

The original's files have `image_proj.…` and `ip_adapter.<number>.…`. Its training scripts leave the
module that they trained: `image_proj_model.…`, `adapter_modules.<number>.…`, and the base's whole
`unet.…`, in which the same layers are processors of attentions by their paths. diffusers names the
projector by its own classes and keeps the halves of a resampler's `to_kv` apart.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ipa.errors import CheckpointError
from ipa.model.adapter import Shapes
from ipa.model.ignoring import Contents, Ignore
from ipa.model.sites import Site

from .weights import read_shapes, read_tensors

Sources = tuple[str, ...]
"""The names of a tensor in a file: one, or two to be joined by their rows."""

_OUTER = re.compile(r"(?:(?:module|_orig_mod)\.)+(?=(?:unet|image_proj_model|adapter_modules)\.)")
_HEADS = {"image_proj_model": "image_proj", "adapter_modules": "ip_adapter"}
_PROCESSOR = re.compile(r"(?:unet|ip_adapter)\.(.+\.attn[12])\.processor\.(.+?)(?:\.0)?\.weight")
_FROZEN = ("unet.", "image_encoder.")
_PROJ = "image_proj."
# diffusers' names within a projector, and the original's.
_INNER = (
    (r"image_embeds\.(\w+)", r"proj.\1"),
    (r"(?:ff|proj)\.net\.0\.proj\.(\w+)", r"proj.0.\1"),
    (r"(?:ff|proj)\.net\.2\.(\w+)", r"proj.2.\1"),
    (r"(layers\.\d+)\.ln0\.(\w+)", r"\1.0.norm1.\2"),
    (r"(layers\.\d+)\.ln1\.(\w+)", r"\1.0.norm2.\2"),
    (r"(layers\.\d+)\.attn\.(to_[qkv]|to_kv)\.weight", r"\1.0.\2.weight"),
    (r"(layers\.\d+)\.attn\.to_out\.0\.weight", r"\1.0.to_out.weight"),
    (r"(layers\.\d+)\.ff\.0\.(\w+)", r"\1.1.0.\2"),
    (r"(layers\.\d+)\.ff\.1\.net\.0\.proj\.weight", r"\1.1.1.weight"),
    (r"(layers\.\d+)\.ff\.1\.net\.2\.weight", r"\1.1.3.weight"),
)
_OF_RESAMPLER = ("proj_in.", "proj_out.", "norm_out.", "layers.")


@dataclass(frozen=True)
class AdapterFile:
    """A file's header: shapes by original names, and where in the file they come from.

    `copies` are names that repeat another tensor; `left_out` is what no adapter has.
    """

    path: Path
    shapes: Shapes
    sources: Mapping[str, Sources]
    copies: Mapping[str, Sequence[Sources]]
    contents: Contents

    def tensors(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The adapter's tensors by original names.

        Raises:
            CheckpointError: One is not finite, or a copy of it has other values.
        """
        groups = {name: [parts, *self.copies.get(name, ())] for name, parts in self.sources.items()}
        wanted = {part for group in groups.values() for parts in group for part in parts}
        values = read_tensors(self.path, dtype, wanted)
        found = {}
        for name, group in groups.items():
            first, *rest = (torch.cat([values[part] for part in parts]) for parts in group)
            if not all(torch.equal(first, other) for other in rest):
                raise CheckpointError(
                    f"{self.path.name} has {name} twice, with different values",
                    found=" and ".join(parts[0] for parts in group),
                    remedy="save the training's state again, or one copy alone",
                )
            found[name] = first
        return found


def open_adapter(path: Path, sites: Sequence[Site], ignore: Ignore) -> AdapterFile:
    """Open an adapter's file and read its header; no value is read.

    Args:
        path: A safetensors file, or one of torch.save.
        sites: The cross-attentions of the UNet that it is for.
        ignore: What else may lie in it.
    """
    stored = read_shapes(path)
    numbers = {place: n for site in sites for n, place in _places(site)}
    found: dict[str, list[Sources]] = defaultdict(list)
    for name, sources in _joined(_spelled(stored, numbers)):
        found[name].append(sources)
    frozen = [taken[0] for n, group in found.items() if n.startswith(_FROZEN) for taken in group]
    others = {n: group for n, group in found.items() if not n.startswith(_FROZEN)}
    asked = [n for n, group in others.items() if all(map(ignore.matches, group[0])) and _spare(n)]
    taken = {name: group for name, group in others.items() if name not in asked}
    copies = {name: group[1:] for name, group in taken.items() if len(group) > 1}
    repeated = [part for group in copies.values() for parts in group for part in parts]
    gone = [*frozen, *repeated, *(part for name in asked for part in others[name][0])]
    return AdapterFile(
        path,
        {name: _shape([stored[part] for part in group[0]]) for name, group in taken.items()},
        {name: group[0] for name, group in taken.items()},
        copies,
        Contents(tuple(stored), tuple(gone)),
    )


def _places(site: Site) -> Iterator[tuple[int, str]]:
    yield site.number, site.path
    yield site.self_attention


def _spelled(stored: Shapes, numbers: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """(original name, name in the file) of every tensor; an unknown one keeps its name."""
    heads = {name: _head(name, numbers) for name in stored}
    inside = {new.removeprefix(_PROJ): stored[n] for n, new in heads.items() if _PROJ in new}
    for name, new in heads.items():
        yield (_inner(new, inside) if new.startswith(_PROJ) else new), name


def _head(name: str, numbers: Mapping[str, int]) -> str:
    bare = _OUTER.sub("", name, count=1)
    if match := _PROCESSOR.fullmatch(bare):
        place = numbers.get(match[1], f"{match[1]}.processor")
        return f"ip_adapter.{place}.{match[2]}.weight"
    first, _, rest = bare.partition(".")
    return f"{_HEADS.get(first, first)}.{rest}" if rest else bare


def _inner(name: str, inside: Shapes) -> str:
    """A projector's tensor as the original calls it; `inside` has all of them as they are."""
    rest = name.removeprefix(_PROJ)
    if rest.startswith(_OF_RESAMPLER) and "proj.net.0.proj.weight" in inside:
        rest = _layer(rest)
        return f"{_PROJ}perceiver_resampler.{rest}"
    # Full-face and FaceID have the same names there; full-face makes one token of a state.
    rows, norm = inside.get("ff.net.2.weight", ()), inside.get("norm.weight", ())
    if rest.startswith("norm.") and rows and rows[:1] == norm[:1]:
        return f"{_PROJ}proj.3.{rest.removeprefix('norm.')}"
    return _PROJ + _layer(rest)


def _layer(rest: str) -> str:
    for pattern, replacement in _INNER:
        rest, count = re.subn(rf"^{pattern}$", replacement, rest)
        if count:
            break
    return rest


def _joined(names: Iterator[tuple[str, str]]) -> Iterator[tuple[str, Sources]]:
    """Sources with the halves of a resampler's keys and values joined."""
    halves: dict[str, dict[str, str]] = defaultdict(dict)
    for new, name in names:
        match = re.fullmatch(rf"({_PROJ}(?:\w+\.)?layers\.\d+\.0)\.to_([kv])\.weight", new)
        if match:
            halves[f"{match[1]}.to_kv.weight"][match[2]] = name
        else:
            yield new, (name,)
    for whole, parts in halves.items():
        if len(parts) == len("kv"):
            yield whole, (parts["k"], parts["v"])
        else:  # as it is: left over
            yield from ((name, (name,)) for name in parts.values())


def _shape(parts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of tensors joined by their rows."""
    first = parts[0]
    return (sum(part[0] for part in parts), *first[1:]) if len(parts) > 1 else first


_INSIDE = (
    r"(?:proj|norm|proj\.[023]|latents)|(?:perceiver_resampler\.)?(?:proj_in|proj_out|norm_out"
    r"|layers\.\d+\.(?:0\.(?:norm1|norm2|to_q|to_kv|to_out)|1\.[013]))"
)
_KNOWN = re.compile(
    rf"image_proj\.(?:{_INSIDE})(?:\.(?:weight|bias))?"
    r"|ip_adapter\.\d+\.to_(?:[kv]_ip|(?:q|k|v|out)_lora\.(?:down|up))\.weight"
)


def _spare(name: str) -> bool:
    """Whether a tensor is one that no adapter has."""
    return _KNOWN.fullmatch(name) is None
