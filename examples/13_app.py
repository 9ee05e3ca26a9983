"""A pipeline inside an application, from loading to closing. Run: … 13_app.py [folder]."""

import asyncio
import sys
import threading
from contextlib import aclosing
from pathlib import Path

import ipa

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
folder.mkdir(exist_ok=True)
stop = threading.Event()  # a button would set it


def show(event: ipa.Progress) -> None:
    """Say what is done; an application would draw a bar."""
    if event.step == event.total:
        print(event.stage, event.total, event.unit)


async def glance(pipe: ipa.Pipeline) -> None:
    """Follow a run up to its first preview; it stops when the block ends."""
    async with aclosing(pipe.astream("a star", preview="latent", cancel=stop)) as events:
        async for event in events:
            if event.preview is not None:
                print("a preview of", event.preview.size)
                return


with ipa.load("demo", on_progress=show, cancel=stop) as pipe:
    pipe.load_ip_adapter("demo:base", name="base", on_progress=show, cancel=stop)
    asyncio.run(glance(pipe))
    try:
        result = pipe("a star", num_inference_steps=4, on_progress=show, cancel=stop, wait=5)
        ipa.save_picture(result, folder / "app.png")
        print(folder / "app.png")
    except (ipa.PipelineBusy, ipa.Cancelled) as error:
        print(error.code, error.what)
