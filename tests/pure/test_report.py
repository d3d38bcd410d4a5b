"""The page of a profile: whole, and deaf to what data says. How it looks and works: tests/cli."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

from faucet_client.preprocessing import FitOptions, fit
from faucet_client.profile import Profile, profile_of
from faucet_client.report import render

HOSTILE = "</script><script>alert(1)</script>"


class Parts(HTMLParser):
    """What a browser finds in the page: elements with their attributes, and scripts' texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}
        self._open = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open = False

    def handle_data(self, data: str) -> None:
        place = len(self.elements) - 1
        if self._open:
            self.texts[place] = self.texts.get(place, "") + data

    def scripts(self) -> list[tuple[dict[str, str | None], str]]:
        return [
            (attributes, self.texts.get(place, ""))
            for place, (tag, attributes) in enumerate(self.elements)
            if tag == "script"
        ]


def hostile() -> Profile:
    columns = {HOSTILE: np.arange(1_000) % 3, "<!--": np.linspace(0, 7, 1_000)}
    return profile_of(
        fit(columns, FitOptions(skip_quantiles=False)),
        columns,
        None,
        source=f"a table {HOSTILE}",
        key=HOSTILE,
        rows={HOSTILE: 1_000},
        bytes_read=0,
        source_types={HOSTILE: HOSTILE},
        policies={HOSTILE: {HOSTILE: 1}},
    )


def test_what_data_says_is_never_markup() -> None:
    page = render(hostile())
    parts = Parts(page)
    scripts = parts.scripts()
    assert len(scripts) == 3
    assert "<script>alert" not in page
    assert HOSTILE not in page
    data: dict[str, Any] = json.loads(scripts[0][1])
    assert data["key"] == HOSTILE, "and it is shown as it is"
    assert HOSTILE in [feature["name"] for feature in data["features"]]


def test_only_the_pages_own_scripts_are_allowed() -> None:
    parts = Parts(render(hostile()))
    policy = next(a["content"] for tag, a in parts.elements if "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy.split("script-src")[1].split(";")[0]
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    ran = [text for attributes, text in parts.scripts() if "type" not in attributes]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in ran]
    assert allowed == hashes


def test_the_page_needs_nothing_beside_it() -> None:
    parts = Parts(render(hostile()))
    for _, attributes in parts.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:,") == "data:,"
    styles = [parts.texts[n] for n, (tag, _) in enumerate(parts.elements) if tag == "style"]
    assert not re.search(r"url\(|@import", "".join(styles))


def test_the_library_stands_in_the_page_with_its_licence() -> None:
    page = render(hostile())
    assert "uPlot (v1.6.32)" in page
    assert "The MIT License (MIT)" in page


def test_the_order_and_the_drift_are_the_profiles() -> None:
    train = {"a": np.linspace(0, 1, 500) * 9, "b": np.linspace(0, 1, 500) * 9}
    moved = {"a": train["a"], "b": train["b"] + 4}
    profile = profile_of(
        fit(train), train, moved, source="t", key="k", rows={"train": 500}, bytes_read=1
    )
    data = json.loads(Parts(render(profile)).scripts()[0][1])
    assert [(each["name"], each["drift"]) for each in data["features"]] == [
        ("b", "strong"),
        ("a", ""),
    ]
