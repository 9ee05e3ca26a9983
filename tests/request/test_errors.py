"""Errors as values: what kind, which argument, what was found, what to do."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

import ipa
from ipa import Control, ImagePrompt, IpaError, errors
from ipa.request.request import Request
from laws.test_wrong_types import PICTURE, VALUES

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "Request": (Request, {}),
    "ImagePrompt": (ImagePrompt, {"image": PICTURE}),
    "Control": (Control, {"image": PICTURE}),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_error_says_which_argument_it_speaks_of(name: str) -> None:
    kind, base = KINDS[name]
    wrong, told = [], 0
    for field in dataclasses.fields(kind):
        for title, value in VALUES.items():
            try:
                kind(**{**base, field.name: value})
            except IpaError as error:
                said = (error.argument or "").split(".")[-1].partition("[")[0]
                # A window that is wrong as a whole is told beside one of its ends.
                if said != field.name and {said, field.name} != {"start", "end"}:
                    wrong.append(f"{field.name} {title}: {error.argument}: {error.what}")
                told += 1
    assert not wrong
    assert told > 100


def test_codes_are_each_kind_s_own() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, IpaError)
    ]
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes) > 10


def test_an_error_as_json() -> None:
    with pytest.raises(ipa.RequestError) as found:
        Request(guidance_rescale=3)
    told = json.loads(json.dumps(found.value.to_json()))
    assert told["code"] == "request"
    assert told["argument"] == "guidance_rescale"
    assert told["found"] == "3"


@pytest.mark.parametrize(
    "what", ["there is no such thing", "a picture cannot be read", "it has no end", "plain words"]
)
def test_words_are_no_argument(what: str) -> None:
    assert IpaError(what).argument is None
