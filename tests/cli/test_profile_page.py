"""The page of a profile in a browser: that it is drawn, sorts, searches, and needs no mouse."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from faucet_client.preprocessing import fit
from faucet_client.profile import Profile, profile_of
from faucet_client.report import render
from tests.cli import profiles
from tests.cli.browser import Page, chromium, running_page

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason="chromium is not installed: make browser"),
    pytest.mark.timeout(300),
]

SHOWN = "[...document.querySelectorAll('.row:not([hidden])')]"
NAMES = f"{SHOWN}.map(row => row.querySelector('.toggle').textContent)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with (
        tempfile.TemporaryDirectory(prefix="c-", ignore_cleanup_errors=True) as folder,
        running_page(Path(folder)) as page,
    ):
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """A page that must not have complained at the end of the test."""
    browser.complaints.clear()
    yield browser
    assert browser.complaints == []


def shown(page: Page, profile: Profile, folder: Path, *, dark: bool = False) -> None:
    path = folder / "profile.html"
    path.write_text(render(profile), encoding="utf-8")
    page.open(path, dark=dark)


def press(page: Page, title: str) -> None:
    page.evaluate(
        "[...document.querySelectorAll('#head button')]"
        f".find(button => button.textContent === '{title}').click()"
    )


def search(page: Page, text: str) -> None:
    page.evaluate(
        "(box => { box.value = '" + text + "'; box.dispatchEvent(new Event('input')); })"
        "(document.getElementById('search'))"
    )


def inked(page: Page, selector: str) -> list[bool]:
    """Of each canvas, whether anything was drawn on it."""
    found: list[bool] = page.evaluate(
        f"[...document.querySelectorAll('{selector} canvas')].map(canvas => canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data.some(value => value > 0))"
    )
    return found


def test_twelve_features_are_drawn_sorted_searched_and_opened(page: Page, tmp_path: Path) -> None:
    profile = profiles.of_flights(6_000)
    shown(page, profile, tmp_path)
    names = [feature.name for feature in profile.features]
    assert len(names) == 12
    assert page.evaluate(NAMES) == names, "what stands out first"
    assert names[0] == "departure_delay"
    page.wait_for("document.querySelectorAll('.small canvas').length >= 12")
    assert all(inked(page, ".small"))

    press(page, "Feature")
    assert page.evaluate(NAMES) == sorted(names)
    press(page, "Feature")
    assert page.evaluate(NAMES) == sorted(names, reverse=True)
    assert page.evaluate("document.querySelector('[aria-sort]').ariaSort") == "descending"
    press(page, "Feature")
    assert page.evaluate(NAMES) == names
    press(page, "Nulls")
    most = sorted(profile.features, key=lambda feature: -feature.null_share)
    assert page.evaluate(NAMES)[:2] == [feature.name for feature in most[:2]]

    search(page, "plane")
    assert set(page.evaluate(NAMES)) == {"plane_age", "plane_seats"}
    assert page.evaluate("document.getElementById('count').textContent") == "2 of 12 features"
    search(page, "no such feature")
    assert page.evaluate(NAMES) == []
    assert page.evaluate("document.getElementById('nothing').hidden") is False
    search(page, "")

    page.evaluate("document.querySelectorAll('.toggle').forEach(toggle => toggle.click())")
    assert page.evaluate("document.querySelectorAll('.detail').length") == 12
    text = page.evaluate("document.getElementById('features').innerText")
    for feature in profile.features:
        assert feature.override in text
        assert (feature.why[1:] or "Not recorded") in text
    page.evaluate("document.querySelector('.large').scrollIntoView()")
    page.wait_for("document.querySelectorAll('.large canvas').length > 0")
    assert all(inked(page, ".large"))


def test_a_row_opens_by_the_keyboard(page: Page, tmp_path: Path) -> None:
    shown(page, profiles.of_flights(3_000), tmp_path)
    page.evaluate("document.getElementById('search').focus()")
    page.write("carrier")
    assert page.evaluate(NAMES) == ["carrier"]
    for _ in range(60):
        page.press("Tab")
        if page.evaluate("document.activeElement.className") == "toggle":
            break
    page.press("Enter")
    assert page.evaluate("document.activeElement.ariaExpanded") == "true"
    assert page.evaluate("document.querySelector('.detail').innerText").count("UA")
    page.press("Enter")
    assert page.evaluate("document.querySelector('.detail').hidden")


def test_of_five_hundred_features_only_those_in_sight_are_drawn(page: Page, tmp_path: Path) -> None:
    shown(page, profiles.of_wide_table(500, 600), tmp_path)
    assert page.evaluate(f"{SHOWN}.length") == 500
    page.wait_for("document.querySelectorAll('.small canvas').length > 0")
    drawn = page.evaluate("document.querySelectorAll('.small canvas').length")
    assert drawn < 200, "of 1,000"
    page.evaluate("[...document.querySelectorAll('.row')].at(-1).scrollIntoView()")
    page.wait_for("[...document.querySelectorAll('.row')].at(-1).querySelector('canvas') !== null")
    assert all(inked(page, ".small"))
    press(page, "Feature")
    names = page.evaluate(NAMES)
    assert names == sorted(names)
    search(page, "user flag")
    assert all("user" in name and "flag" in name for name in page.evaluate(NAMES))
    assert page.evaluate(f"{SHOWN}.length") > 10


def test_dark_is_drawn_again_in_its_own_colours(page: Page, tmp_path: Path) -> None:
    shown(page, profiles.of_flights(3_000), tmp_path)
    colours = "getComputedStyle(document.body).backgroundColor"
    canvas = "document.querySelector('.small canvas')"
    page.wait_for(f"{canvas} !== null")
    light, image = page.evaluate(colours), page.evaluate(f"{canvas}.toDataURL()")
    page.colours(dark=True)
    page.wait_for(f"{canvas} !== null && {canvas}.toDataURL() !== {image!r}")
    assert page.evaluate(colours) != light


def test_a_hostile_name_is_only_shown(page: Page, tmp_path: Path) -> None:
    name = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    columns = {name: np.arange(1_000.0)}
    profile = profile_of(
        fit(columns), columns, columns, source=name, key=name, rows={"train": 1_000}, bytes_read=0
    )
    shown(page, profile, tmp_path)
    page.evaluate("document.querySelector('.toggle').click()")
    assert page.evaluate(NAMES) == [name]
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.querySelectorAll('script').length") == 3


def test_the_oddest_columns_are_drawn_without_a_complaint(page: Page, tmp_path: Path) -> None:
    numbers = np.linspace(0.0, 1.0, 1_000)
    columns = {
        "constant": np.full(1_000, 1e30),
        "huge": (numbers - 0.5) * 2e37,
        "tiny": numbers * 1e-300,
        "close together": 1e15 + np.arange(1_000.0) / 8,
        "all null": np.full(1_000, np.nan),
        "infinite": np.where(numbers > 0.5, np.inf, numbers),
        " ": numbers,
        "n" * 900: numbers,
    }
    other = {name: np.full(10, np.nan) for name in columns}
    profile = profile_of(
        fit(columns), columns, other, source="", key="", rows={"train": 1_000}, bytes_read=0
    )
    shown(page, profile, tmp_path)
    assert page.evaluate(f"{SHOWN}.length") == len(columns)
    page.evaluate("document.querySelectorAll('.toggle').forEach(toggle => toggle.click())")
    page.evaluate("document.querySelectorAll('.large').forEach(each => each.scrollIntoView())")
    page.wait_for(
        "[...document.querySelectorAll('.large')].every(each => each.querySelector('canvas')"
        " || each.scrollIntoView())"
    )
    assert all(inked(page, ".large"))
    text = page.evaluate("document.getElementById('features').innerText")
    assert "NaN" not in text.replace("null or NaN", "")
    assert "undefined" not in text
