"""`ipa-mlx fetch`: models and adapters into the hub's cache, for machines that go offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ipa.contract.errors import CheckpointError
from ipa.prepare.catalogue import ADAPTERS
from ipa.prepare.hub_name import hub_name
from ipa.prepare.sources import (
    resolve_adapter,
    resolve_file,
    resolve_model,
    resolve_repository,
)

_ADAPTER = "IP-Adapter"  # a family of files, as the converters call it


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """Where things lie now: a folder or a file, and the image encoder of an adapter."""

    name: str
    path: Path
    image_encoder: Path | None = None


def fetch(name: str, *, revision: str | None, variant: str | None, offline: bool) -> Fetched:
    """Bring a repository (owner/name), a file of one, or a public adapter (short name) here.

    Raises:
        CheckpointError: It does not exist, or the hub cannot be reached.
    """
    found = hub_name(name)
    if found is not None and not found.path:
        root = resolve_repository(name, revision=revision, variant=variant, offline=offline)
        return Fetched(name=name, path=root)
    if found is None and ("/" in name or Path(name).exists()):
        model = resolve_model(name, variant=variant)
        return Fetched(name=name, path=model.single_file.path if model.single_file else model.path)
    if found is not None:
        path = resolve_file(name, revision=revision, offline=offline)
        if not _is_adapter(path):
            return Fetched(name=name, path=path)
    files = resolve_adapter(name, revision=revision, offline=offline)
    return Fetched(name=name, path=files.weights, image_encoder=files.image_encoder)


def _is_adapter(path: Path) -> bool:
    """Whether an image encoder may have to come with a file; what cannot be read needs none."""
    import ipa_convert

    try:
        return ipa_convert.inspect(path).family == _ADAPTER
    except CheckpointError:
        return False


def show_catalogue() -> None:
    """The public adapters, on standard output."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("name", "base", "for", "repository"):
        table.add_column(title)
    for name, public in ADAPTERS.items():
        table.add_row(name, public.base, public.about, public.repository)
    Console().print(table)
