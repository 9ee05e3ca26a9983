"""A picture as the prompt, at five weights. Run: python examples/01_image_prompt.py [folder]."""

import sys
from pathlib import Path

import ipa
from ipa import ImagePrompt, demo

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
folder.mkdir(exist_ok=True)

pipe = ipa.load("demo")
pipe.load_ip_adapter(demo.adapter("base"))
reference = ipa.open_image(demo.references()[5])

for scale in (0.0, 0.25, 0.5, 0.75, 1.0):
    result = pipe(
        image_prompts=[ImagePrompt(reference, scale=scale)],
        num_inference_steps=8,
        guidance_scale=4,
        seed=3,
    )
    path = folder / f"image_prompt_{scale:.2f}.png"
    result.images[0].save(path)
    print(path)
