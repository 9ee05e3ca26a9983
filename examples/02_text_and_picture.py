"""Words say what, the picture says how. Run: python examples/02_text_and_picture.py [folder]."""

import sys
from pathlib import Path

import ipa
from ipa import ImagePrompt, demo

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
folder.mkdir(exist_ok=True)

pipe = ipa.load("demo")
pipe.load_ip_adapter(demo.adapter("base"))
style = ImagePrompt(ipa.open_image(demo.references()[2]), scale=0.7)

for shape in ("star", "heart", "ring"):
    result = pipe(
        f"a {shape}",
        negative_prompt="a circle",
        image_prompts=[style],
        num_inference_steps=8,
        guidance_scale=4,
        seed=1,
    )
    path = folder / f"text_and_picture_{shape}.png"
    result.images[0].save(path)
    print(path)
