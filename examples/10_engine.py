"""An engine for many callers: jobs from threads and from asyncio. Run: … 10_engine.py [folder]."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from ipa import Engine, ImagePrompt, Job, Result, demo, open_image

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
folder.mkdir(exist_ok=True)
picture = open_image(demo.references()[3])
needs = {"model": "demo", "adapters": ["base=demo:base"]}


def _asked(seed: int) -> dict[str, Any]:
    return {"image_prompts": [ImagePrompt(picture)], "num_inference_steps": 4, "seed": seed}


def _save(job: Job[Result], result: Result) -> None:
    path = folder / f"engine_{job.id}.png"
    result.images[0].save(path)
    print(path)


async def _from_asyncio(engine: Engine) -> None:
    job = engine.submit(needs, _asked(2), job_id="asyncio")
    async for event in job:
        print(event.stage, event.step, "of", event.total)
    _save(job, await job)


with Engine() as engine:
    job = engine.submit(needs, _asked(1), job_id="thread")  # from any thread
    asyncio.run(_from_asyncio(engine))
    _save(job, job.result())
