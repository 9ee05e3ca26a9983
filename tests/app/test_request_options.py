"""Every field of a request has an option, or a reason why not; none says what another says."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import typer
from typer.core import TyperGroup

from ipa.app.cli import app
from ipa.app.request_options import ABSENT, MADE, OPTIONS, PLAIN, SPELLED, plain_arguments
from ipa.request import control, image_prompt, request
from ipa.request.request import Request

FIELDS = {field.name: field for field in fields(Request)}
TYPED = {"seed": "0", "num_images": 1}
"""Defaults that are typed as texts."""


def generate() -> dict[str, Any]:
    """The parameters of `generate`, by name."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return {str(param.name): param for param in group.commands["generate"].params}


def test_every_field_has_an_option_or_a_reason() -> None:
    params = generate()
    assert FIELDS.keys() == OPTIONS.keys() | ABSENT.keys()
    assert not OPTIONS.keys() & ABSENT.keys()
    assert set(PLAIN) <= params.keys(), "add the option to generate, or name the field in ABSENT"
    assert not ABSENT.keys() & params.keys(), "it has an option: take it from ABSENT"
    assert set(SPELLED) <= set(PLAIN) and MADE.keys().isdisjoint(PLAIN)


def test_options_are_spelled_as_the_table_says() -> None:
    spelled = {word for param in generate().values() for word in param.opts}
    assert set(OPTIONS.values()) <= spelled


def test_an_option_that_is_not_typed_is_the_fields_default() -> None:
    for name in PLAIN:
        default = FIELDS[name].default
        assert default is not MISSING
        found = generate()[name].default
        assert found == TYPED.get(name, default), name


def test_arguments_are_those_that_a_command_has() -> None:
    assert plain_arguments({"eta": 0.5, "model": "demo", "prompt": ["a"]}, but=["prompt"]) == {
        "eta": 0.5
    }


def test_what_is_read_in_a_way_of_its_own_is_a_field() -> None:
    kinds = {
        Request: request.READS,
        image_prompt.ImagePrompt: image_prompt.READS,
        control.Control: control.READS,
    }
    for kind, reads in kinds.items():
        assert reads.keys() <= {field.name for field in fields(kind)}
