"""Two pictures, each on its side of the new one. Run: … 05_masks.py [folder]."""

import sys
from pathlib import Path

import numpy as np

import ipa
from ipa import ImagePrompt, demo

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
folder.mkdir(exist_ok=True)

pipe = ipa.load("demo")
pipe.load_ip_adapter(demo.adapter("base"))
heart, ring = (ipa.open_image(demo.references()[number]) for number in (3, 0))
left = np.tile(np.linspace(1, 0, 64) > 0.5, (64, 1))  # (H, W); white, True or 1.0 is on

result = pipe(
    image_prompts=ImagePrompt([heart, ring], mask=[left, ~left]),
    num_inference_steps=12,
    guidance_scale=4,
)
path = folder / "half_heart_half_ring.png"
result.images[0].save(path)
print(path)
