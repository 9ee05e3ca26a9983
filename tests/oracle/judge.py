"""Independent witnesses of whether a picture follows its reference.

The demo's CLIP tower by transformers, the colour of the border, and a small classifier of shape,
colour, pattern and background that was trained on renderings alone and never saw the adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from ipa import demo
from ipa_torch.files.weights import quiet

WORDS = {
    "shape": ("circle", "square", "triangle", "star", "ring", "cross", "heart", "crescent"),
    "colour": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    "pattern": ("solid", "striped", "checkered", "dotted", "gradient"),
    "background": ("white", "black", "gray", "brown", "red", "green", "blue", "yellow"),
}
_LAYERS = ((24, 2), (32, 1), (64, 2), (64, 1), (96, 2), (128, 2))  # channels, stride


class Judge(nn.Module):
    """Six convolutions, then one linear head per attribute."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, stride in _LAYERS:
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.f = nn.Sequential(*layers)
        self.h = nn.ModuleList([nn.Linear(6 * inputs, len(words)) for words in WORDS.values()])
        weights = Path(__file__).with_name("judge.safetensors")
        self.load_state_dict(safetensors.torch.load_file(weights))
        self.eval()

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        z = self.f(pixels - 0.5)
        quarters = nn.functional.adaptive_avg_pool2d(z, 2).flatten(1)
        pooled = torch.cat([quarters, z.mean((2, 3)), z.amax((2, 3))], 1)
        return [head(pooled) for head in self.h]

    @torch.no_grad()
    def read(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        """What each picture shows."""
        stacked = np.stack([np.asarray(i.convert("RGB"), np.float32) / 255 for i in images])
        heads = self(torch.from_numpy(stacked.transpose(0, 3, 1, 2)))
        picks = [head.argmax(1).tolist() for head in heads]
        return [
            {kind: words[pick] for (kind, words), pick in zip(WORDS.items(), row, strict=True)}
            for row in zip(*picks, strict=True)
        ]


@dataclass(frozen=True)
class Reference:
    """A reference picture and what its file name says."""

    image: Image.Image
    words: dict[str, str]

    @classmethod
    def all(cls) -> list[Reference]:
        """The demo's eight."""
        found = []
        for path in demo.references():
            colour, pattern, shape, _, background = path.stem.split("-")
            words = {"shape": shape, "colour": colour, "pattern": pattern, "background": background}
            found.append(cls(Image.open(path).convert("RGB"), words))
        return found


@torch.no_grad()
def clip_embeddings(images: Sequence[Image.Image]) -> np.ndarray:
    """(N, P), of length 1, by transformers on the demo's image encoder."""
    with quiet():
        folder = demo.model()
        tower = CLIPVisionModelWithProjection.from_pretrained(
            folder / "image_encoder", dtype=torch.float32
        )
        processor = CLIPImageProcessorPil.from_pretrained(folder / "feature_extractor")
    pixels = processor(list(images), return_tensors="pt").pixel_values
    return nn.functional.normalize(tower(pixels).image_embeds, dim=-1).numpy()


def border_colour(image: Image.Image) -> np.ndarray:
    """Median RGB of the three outer pixels, in [0, 1]."""
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    inside = np.zeros(pixels.shape[:2], bool)
    inside[3:-3, 3:-3] = True
    return np.median(pixels[~inside], axis=0)
