"""Two adapters, each with its picture, weight and window. Run: … 03_two_adapters.py [folder]."""

import sys
from pathlib import Path

import ipa
from ipa import ImagePrompt, demo

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
folder.mkdir(exist_ok=True)

pipe = ipa.load("demo")
pipe.load_ip_adapter(demo.adapter("base"), name="base")
pipe.load_ip_adapter(demo.adapter("plus"), name="plus")
first, second = (ipa.open_image(demo.references()[number]) for number in (3, 0))

result = pipe(
    image_prompts=[
        ImagePrompt(first, adapter="base", scale=0.6),
        ImagePrompt(second, adapter="plus", scale=0.6, end=0.5),  # the first half of the steps
    ],
    num_inference_steps=12,
    guidance_scale=4,
    num_images=2,
)
for seed, image in zip(result.info["request"]["seeds"], result.images, strict=True):
    path = folder / f"two_adapters_seed_{seed}.png"
    image.save(path)
    print(path)
