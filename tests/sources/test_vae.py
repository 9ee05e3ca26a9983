"""Another VAE and a preview decoder by their names on the hub, also without it afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from diffusers import AutoencoderTiny

from oracle.hub import serve
from oracle.hub_client import NOBODY

CODE = """
import sys
from pathlib import Path
from ipa.sources.vae import resolve_vae
from ipa.sources.vae import resolve_preview_decoder
from ipa.sources.models import resolve_model

offline = sys.argv[2] == "offline"
model = resolve_model(sys.argv[1])
names = ("someone/vae", "someone/model", "someone/vae/diffusion_pytorch_model.safetensors")
for name in names:
    found = resolve_vae(model, name, offline=offline).other_vae
    print(found.name, found.path.is_dir(), found.path.name == "vae")
files = resolve_preview_decoder("someone/taesd", model, offline=offline)
print(files.spec.blocks, sorted(path.name for path in files.path.iterdir()))
"""
EXPECTED = """someone/vae True False
someone/model True True
someone/vae/diffusion_pytorch_model.safetensors False False
(3, 3, 3, 1) ['config.json', 'diffusion_pytorch_model.safetensors']
"""


def test_names_on_the_hub(tiny: Path, tmp_path: Path) -> None:
    AutoencoderTiny().save_pretrained(tmp_path / "taesd")
    (tmp_path / "taesd" / "README.md").write_text("not needed")
    skip = shutil.ignore_patterns("*.safetensors.*")
    shutil.copytree(tiny / "vae", tmp_path / "vae", ignore=skip)
    whole = shutil.copytree(tiny, tmp_path / "model", ignore=skip)
    repositories = {
        "someone/vae": tmp_path / "vae",
        "someone/taesd": tmp_path / "taesd",
        "someone/model": whole,
    }
    with serve(repositories) as hub:
        environment = os.environ | hub.environment(tmp_path / "cache")
        for mode, extra in (("online", {}), ("offline", NOBODY)):
            done = subprocess.run(
                [sys.executable, "-c", CODE, tiny, mode],
                env=environment | extra,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout == EXPECTED
        unwanted = ("unet", "README", "text_encoder")
        assert not [name for name in hub.fetched if any(word in name for word in unwanted)]
