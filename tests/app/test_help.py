"""The help at 80 columns: every name and every word whole, in panels, with what to try below."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ipa.app.cli import app
from ipa.app.help.examples import RECIPES, START
from ipa.app.help.panels import PANELS, PanelledCommand, placed

PANELLED = (
    *(["generate"], ["sweep"], ["explain"], ["bench"]),
    *(["parity", "capture"], ["parity", "compare"]),
)


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[list[str], Any]]:
    """Every command with the words that call it."""
    for name, command in (group or typer.main.get_group(app)).commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, (*path, name))
        else:
            yield [*path, name], command


def shown(words: list[str], columns: int = 80) -> str:
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [*words, "--help"])
    assert done.exit_code == 0, done.output
    return done.stdout


def told(text: str) -> str:
    """Without what wrapping adds."""
    return re.sub(r"[\s│]", "", text)


@pytest.mark.parametrize(("words", "command"), [(w, c) for w, c in commands()])
def test_every_option_and_word_survives_80_columns(words: list[str], command: Any) -> None:
    text = shown(words)
    letters, names = told(text), set(re.findall(r"--[a-z0-9-]+", text))
    for param in command.params:
        assert told(param.help or "") in letters, param.name
        if param.param_type_name == "option":
            assert {name for name in param.opts if name.startswith("--")} <= names
        if isinstance(param.show_default, str):
            assert told(f"[default: ({param.show_default})]") in letters, param.name
    assert max(len(line) for line in text.splitlines()) <= 80


def test_hand_written_defaults_are_shown() -> None:
    text = told(shown(["generate"]))
    for default in ("30", "themodel's:7.5,orSDXL's5", "mlxifinstalled", "thecheckpoint'sown"):
        assert f"[default:({default})]" in text


@pytest.mark.parametrize("words", PANELLED)
def test_every_option_has_a_panel(words: list[str]) -> None:
    command = {tuple(w): c for w, c in commands()}[tuple(words)]
    assert isinstance(command, PanelledCommand)
    options = {p.name for p in command.params if p.param_type_name == "option"}
    places = placed(words[-1], command.params)
    assert options <= set(places)
    used = {places[str(name)] for name in options}
    titles = re.findall(r"╭─ (.+?) ─", shown(words))
    assert [t for t in titles if t != "Arguments"] == [
        t for t in dict.fromkeys(places.values()) if t in used
    ]


def test_no_name_stands_in_the_table_for_nothing() -> None:
    real = {param.name for _, command in commands() for param in command.params} | {"help"}
    assert {name for names in PANELS.values() for name in names} <= real


def test_ten_options_come_first() -> None:
    first = shown(["generate"]).split("╭─ ")[1:]
    titles = [panel.split(" ─")[0] for panel in first if not panel.startswith("Arguments")]
    assert titles[0] == "The ten options most people need"
    panel = next(panel for panel in first if panel.startswith("The ten"))
    assert len(set(re.findall(r"^│ (--[a-z-]+)", panel, re.MULTILINE))) == 10


def test_no_column_says_types() -> None:
    for words in PANELLED:
        options = shown(words).split("most people need")[1]
        assert not re.search(r"<(list\[)?(str|int|float|path|bool)", options)


def test_brackets_stay() -> None:
    assert "[ADAPTER=]FILE[:SCALE][@START-END]" in shown(["generate"])


def test_the_program_alone_says_where_to_begin() -> None:
    alone = CliRunner(env={"COLUMNS": "80"}).invoke(app, [])
    assert len(START) == 3
    for command in START.values():
        assert command in alone.output


def test_each_help_ends_with_recipes() -> None:
    for words in PANELLED:
        end = shown(words).rpartition("╯")[2]
        for goal, command in RECIPES[words[-1]].items():
            assert goal in end and command in end


def test_recipes_name_options_that_there_are() -> None:
    real = {" ".join(words): command for words, command in commands()}
    for recipe in [*START.values(), *(r for each in RECIPES.values() for r in each.values())]:
        program, *words = shlex.split(recipe.replace("\\\n", " "))
        assert program == "ipa-mlx"
        command = real.get(" ".join(words[:2])) or real[words[0]]
        known = {name for param in command.params for name in [*param.opts, *param.secondary_opts]}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, recipe


def test_help_is_a_command_too() -> None:
    run = CliRunner(env={"COLUMNS": "80"}).invoke
    assert run(app, ["help", "explain"]).stdout == shown(["explain"])
    assert run(app, ["help"]).stdout == run(app, ["--help"]).stdout


def test_versions_by_one_letter() -> None:
    run = CliRunner().invoke
    assert run(app, ["-v"]).stdout == run(app, ["--version"]).stdout != ""


def test_a_prompt_needs_no_option(tmp_path: Path) -> None:
    words = ["generate", "a heart", "-n1", "--width", "32", "--height", "32", "--json"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "a.png")])
    assert done.exit_code == 0, done.output
    assert '"prompt": "a heart"' in done.stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [(["a heart", "-p", "a ring"], "two prompts"), (["README.md"], "write -i README.md")],
)
def test_prompts_that_cannot_be_meant(
    words: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("x")
    done = CliRunner().invoke(app, ["generate", *words])
    assert done.exit_code == 2 and part in done.stderr
