"""The view once: on whatever terminal or file there is, or as a picture."""

from __future__ import annotations

import io
import re

from rich.console import Console
from rich.text import Text

from faucetd.top.frame import View, body, header, legend

SVG_CELLS = 104

_FONTS = re.compile(r"@font-face \{[^}]*\}\s*")


def print_view(view: View, console: Console) -> None:
    """Prints the whole view, however long, as wide as the console is."""
    width = console.width
    for part in (header(view, width), Text(), body(view, width), Text(), legend()):
        console.print(part)


def as_svg(view: View) -> str:
    """The view as an SVG that needs nothing from elsewhere: rich's would fetch a font."""
    console = Console(highlight=False, record=True, file=io.StringIO(), width=SVG_CELLS)
    print_view(view, console)
    return _FONTS.sub("", console.export_svg(title="faucetd top"))
