"""A studio on the demo, for a file of tests: its folder and its server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipa.serve.desk import Desk
from ipa.serve.offers import Offers
from ipa.serve.server import Server
from ipa.studio.folder import Folder
from ipa.studio.routes import studio_routes
from ipa.studio.studio import Studio
from oracle.served import OFFERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="session")
def opened() -> Callable[[Path], Server]:
    """A studio that keeps its pictures in a folder."""

    def open_studio(folder: Path) -> Server:
        desk = Desk(Offers.of(["demo"], OFFERS))
        return Server(desk, port=0, further=[studio_routes(Studio(desk, Folder(folder)))])

    return open_studio


@pytest.fixture(scope="module")
def server(folder: Path, opened: Callable[[Path], Server]) -> Iterator[Server]:
    with opened(folder) as made:
        yield made
