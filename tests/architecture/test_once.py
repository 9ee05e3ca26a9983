"""What there is one place for, read from the sources: no second one may grow beside it."""

from __future__ import annotations

import re

from architecture.rooms import sources

# Files appear whole or not at all by `ipa.files`, folders by `containers.atomic`; a compiler's
# library has no writer to hand over.
_NAMING = re.compile(r"mkstemp|token_hex|os\.(link|rename|replace)\(")
_NAMERS = {"ipa.files", "ipa_convert.containers.atomic"}


def test_there_is_one_place_that_names_finished_files() -> None:
    found = {module for module, text in sources().items() if _NAMING.search(text)}
    assert found == _NAMERS, "write with ipa.files.put_whole"
