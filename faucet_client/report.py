"""The page that shows a profile: one HTML file that needs no network and nothing beside it.

    Path("profile.html").write_text(render(profile), encoding="utf-8")

Invariants: nothing that comes from data is ever markup. It stands in the page as JSON in which no
character can end the script element (and in the title, escaped), and the page's own script writes
it as text. A Content-Security-Policy allows that script and the plots' library, by their hashes,
and nothing else, so that even a mistake there would run nothing and load nothing.

The page's parts lie in `_report/`: its style, its script, and uPlot 1.6.32 (MIT), which draws the
plots, with its licence.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from functools import cache
from importlib import resources
from typing import Any

from faucet_client._version import __version__
from faucet_client.profile import Profile
from faucet_client.profile.document import plain

_ESCAPED = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&"})
"""What could end the element; in JSON these stand within texts alone."""


def render(profile: Profile) -> str:
    """The page, to be written as UTF-8.

    Args:
        profile: What it shows; its features in their order, what stands out first.
    """
    scripts = (_part("uPlot.iife.min.js"), _part("report.js"))
    allowed = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    title = html.escape(f"{profile.source} · Faucet ML profile")
    library, script = (f"<script>{each}</script>" for each in scripts)
    style = _part("uPlot.min.css") + _part("report.css")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="Faucet ML {__version__}">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{_part("report.html")}
<script type="application/json" id="profile">{_embedded(profile)}</script>
<!-- uPlot is under the licence that follows.
{_part("LICENSE.uPlot")}-->
{library}
{script}
</body>
</html>
"""


def _embedded(profile: Profile) -> str:
    """A profile as JSON that can stand inside a script element, whatever its texts are."""
    data: dict[str, Any] = plain(profile)
    for entry, feature in zip(data["features"], profile.features, strict=True):
        entry["drift"] = feature.drift
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPED)


@cache
def _part(name: str) -> str:
    folder = resources.files("faucet_client") / "_report"
    return folder.joinpath(name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
