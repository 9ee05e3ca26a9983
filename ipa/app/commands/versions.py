"""`ipa-mlx --version`: what is installed, and with --verbose what it runs on."""

from __future__ import annotations

import platform

import typer

from ipa.pipeline.loading import environments
from ipa.version import __version__

_PACKAGES = ("mlx", "numpy", "tokenizers", "torch", "diffusers", "transformers")


def show_versions(*, verbose: bool) -> None:
    """Print our version; verbose adds the machine, the libraries and what each backend finds."""
    typer.echo(f"ipa-mlx {__version__}")
    if not verbose:
        return
    import importlib.metadata  # with all of email: 30 ms that `ipa-mlx --help` need not wait for

    typer.echo(f"python {platform.python_version()} on {platform.platform()}")
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        typer.echo(f"{package} {version}")
    for name, facts in environments().items():
        for key, value in facts.items():
            typer.echo(f"{name}: {key}: {value}")
