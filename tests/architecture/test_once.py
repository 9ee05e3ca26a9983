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


# Of the commands: those that read a model's files and open no pipeline.
_FINDERS = {
    "ipa.app.options.loading",
    "ipa.app.commands.convert",  # writes them anew
    "ipa.app.commands.fetch",  # says where they lie
}


def test_there_is_one_opening_of_a_model_in_the_commands() -> None:
    said = {m: text for m, text in sources().items() if m.startswith("ipa.app.")}
    loading = re.compile(r"pipeline\.loading import .*\bload\b")
    loads = {m for m, text in said.items() if loading.search(text)}
    finds = {m for m, text in said.items() if re.search(r"\bresolve_(model|vae)\b", text)}
    assert loads == {"ipa.app.options.loading"}, "open a model with ModelOptions"
    assert finds == _FINDERS, "find a model with ModelOptions.folder"
