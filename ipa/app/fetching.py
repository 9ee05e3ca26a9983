"""`ipa-mlx fetch`: models and adapters into the hub's cache, for machines that go offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ipa.app.generate import adapter_source
from ipa.prepare.catalogue import ADAPTERS
from ipa.prepare.sources import resolve_adapter, resolve_model


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """Where things lie now: a model's folder, or an adapter's file and its image encoder."""

    name: str
    path: Path
    image_encoder: Path | None


def fetch(name: str, *, revision: str | None, variant: str | None, offline: bool) -> Fetched:
    """Bring a model (owner/name) or an adapter (short name, or owner/name/file) here.

    Raises:
        CheckpointError: It does not exist, or the hub cannot be reached.
    """
    where = adapter_source(name)
    if "weight_name" not in where and ("/" in name or Path(name).exists()):
        model = resolve_model(name, revision=revision, variant=variant, offline=offline)
        return Fetched(name=name, path=model.path, image_encoder=None)
    files = resolve_adapter(**where, revision=revision, offline=offline)
    return Fetched(name=name, path=files.weights, image_encoder=files.image_encoder)


def show_catalogue() -> None:
    """The public adapters, on standard output."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("name", "base", "for", "repository"):
        table.add_column(title)
    for name, public in ADAPTERS.items():
        table.add_row(name, public.base, public.about, public.repository)
    Console().print(table)
