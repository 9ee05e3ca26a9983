"""The studio's page in a real browser: whole flows, as a person goes through them."""

from __future__ import annotations

import hashlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa import demo
from ipa.serve.server import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no chromium on this machine", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

STYLE, SUBJECT = ".slot[data-kind=style]", ".slot[data-kind=subject]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(server: Server, browser: Any) -> Iterator[Any]:
    """The page of a new visitor; whatever it asks of another host, or fails at, is a fault."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    made, wrong = context.new_page(), []
    made.on("request", lambda one: is_elsewhere(one.url, server) and wrong.append(one.url))
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.set_default_timeout(20_000)
    made.goto(server.url)
    yield made
    context.close()
    assert wrong == []


def is_elsewhere(url: str, server: Server) -> bool:
    return not url.startswith((server.url, "data:", f"blob:{server.url}"))


def bring(page: Any, slot: str, number: int) -> None:
    page.locator(f"{slot} input[type=file]").set_input_files(demo.references()[number])
    page.locator(f"{slot} .square").wait_for()


def few_steps(page: Any, steps: int = 3) -> None:
    page.locator("details.fine summary").click()
    page.get_by_label("Steps", exact=True).fill(str(steps))
    page.keyboard.press("Tab")


def made_one(page: Any, folder: Path, act: Any) -> Path:
    """The file of the picture that comes of an act."""
    before = {*folder.glob("*.png")}
    act()
    page.get_by_role("button", name="Stop").wait_for()
    page.get_by_role("button", name="Generate").wait_for()
    page.locator(".result img").wait_for()
    (made,) = {*folder.glob("*.png")} - before
    return made


def pixels(path: Path) -> str:
    with Image.open(path) as image:
        return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def test_from_nothing_to_a_picture_that_comes_back(page: Any, folder: Path) -> None:
    """A picture in a slot, Generate; its PNG, brought back, makes the same picture."""
    bring(page, STYLE, 2)
    page.fill("#prompt", "a star")
    few_steps(page)
    first = made_one(page, folder, lambda: page.click("#generate"))
    page.fill("#prompt", "something else")
    page.locator(f"{STYLE} [aria-label*='take the picture out']").click()
    page.locator(".result").click()
    page.get_by_role("button", name="Use these settings").click()
    page.locator(f"{STYLE} .square").wait_for()
    assert page.input_value("#prompt") == "a star"
    second = made_one(page, folder, lambda: page.click("#generate"))
    assert pixels(first) == pixels(second)


def test_the_crop_is_what_the_encoder_sees(page: Any) -> None:
    bring(page, SUBJECT, 0)
    square = page.locator(f"{SUBJECT} .square")
    truth = page.locator(f"{SUBJECT} .square .truth")
    truth.wait_for()
    before = truth.get_attribute("src")
    square.focus()
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.locator(f"{SUBJECT} .seen", has_text="Not seen").wait_for()
    truth.wait_for()
    assert truth.get_attribute("src") != before


def test_stop_and_queue(page: Any, folder: Path, server: Server) -> None:
    """A run is stopped; of three that wait the second is cancelled; another tab sees the same."""
    few_steps(page, 500)
    page.click("#generate")
    page.get_by_role("button", name="Add to the queue").click()
    page.get_by_role("button", name="Add to the queue").click()
    items = page.locator(".queue li")
    items.nth(2).wait_for()
    other = page.context.new_page()
    other.goto(server.url)
    other.locator(".queue li").nth(2).wait_for()
    page.get_by_role("button", name="Cancel picture 2").click()
    playwright.expect(other.locator(".queue li")).to_have_count(2, timeout=20_000)
    other.close()
    before = len(list(folder.glob("*.png")))
    page.locator("#generate", has_text="Stop").click()
    playwright.expect(page.locator(".queue li")).to_have_count(0, timeout=20_000)
    page.locator("#generate", has_text="Stop").click()
    page.locator("#generate", has_text="Generate").wait_for()
    assert len(list(folder.glob("*.png"))) == before


def test_a_reload_keeps_the_form_and_finds_the_run(page: Any) -> None:
    bring(page, STYLE, 1)
    page.fill("#prompt", "a ring")
    few_steps(page, 500)
    page.click("#generate")
    page.locator(".working figcaption", has_text="Step").wait_for()
    page.reload()
    page.locator(".working figcaption", has_text="Step").wait_for()
    assert page.input_value("#prompt") == "a ring"
    assert page.locator(f"{STYLE} .square").count() == 1
    page.locator("#generate", has_text="Stop").click()
    page.locator("#generate", has_text="Generate").wait_for()


def test_a_mask_is_painted_undone_and_kept(page: Any, folder: Path) -> None:
    bring(page, STYLE, 2)
    few_steps(page)
    page.get_by_label("Style: exact values").click()
    page.get_by_role("button", name="Paint where it acts").click()
    box = page.locator("canvas").bounding_box()
    for place in (0.3, 0.7):
        page.mouse.move(box["x"] + 40, box["y"] + box["height"] * place)
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + box["height"] * place, steps=4)
        page.mouse.up()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Use this mask").click()
    made_one(page, folder, lambda: page.click("#generate"))
    page.get_by_role("button", name="Change the mask").wait_for()
    kept = page.evaluate("JSON.parse(localStorage.getItem('ipa-mlx-form')).slots[0].mask.sha256")
    with Image.open(folder / "made of" / f"{kept}.png") as image:
        mask = np.asarray(image.convert("L"))
    height = mask.shape[0]
    assert mask[int(height * 0.3), mask.shape[1] // 4] > 200
    assert mask[int(height * 0.7)].max() == 0


@pytest.mark.parametrize("what", ["text", "huge"])
def test_bad_files_are_one_sentence_in_place(page: Any, tmp_path: Path, what: str) -> None:
    bring(page, STYLE, 2)
    bad = tmp_path / "bad.png"
    if what == "text":
        bad.write_text("no picture")
    else:
        Image.new("1", (9_000, 9_000)).save(bad)
    page.locator(f"{SUBJECT} input[type=file]").set_input_files(bad)
    fault = page.locator(f"{SUBJECT} .fault")
    fault.wait_for()
    assert len(fault.inner_text()) > 20
    assert page.locator(f"{STYLE} .square").count() == 1


def test_by_keyboard_alone(page: Any, folder: Path) -> None:
    few_steps(page)
    page.locator("body").click(position={"x": 700, "y": 10})
    page.keyboard.press("/")
    page.keyboard.type("a heart")
    made_one(page, folder, lambda: page.keyboard.press("Control+Enter"))
    page.locator(".result").focus()
    page.keyboard.press("Enter")
    page.locator("dialog dd", has_text="a heart").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    page.locator("h1").click()
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys and help").wait_for()


@pytest.mark.parametrize("width", [390, 1280, 2560])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_or_unreadable(page: Any, width: int, scheme: str) -> None:
    """No scrolling sideways, and nothing serious by the rules of axe."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    bring(page, STYLE, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


def test_the_server_looks_up_no_name(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *given, **more: asked.append(given) or real(*given, **more)
    )
    page.reload()
    bring(page, SUBJECT, 3)
    page.locator(f"{SUBJECT} .truth").wait_for()
    assert asked == []
