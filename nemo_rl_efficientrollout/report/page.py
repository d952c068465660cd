"""The shell of a page that needs nothing beside itself: style, plotly.js, script and data are inside.

Its content policy forbids any request, so it reads the same offline.
"""

import json
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from nemo_rl_efficientrollout.report.alternative import alternative
from nemo_rl_efficientrollout.report.style import Figure

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def page(title: str, body: str, data: dict[str, Any]) -> str:
    """A document of `body`, which is HTML, with `data` for page.js.

    `figures` by element id; `pickers`, by the id of a select element, each a list with one entry per option: `texts`
    and `figures` by element id.
    """
    folder = files(__package__ or "")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{(folder / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{_json(data)}</script>
<script>{get_plotlyjs()}</script>
<script>
{(folder / "page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def card(name: str, title: str, figure: Figure, caption: str = "") -> str:
    """The place of a figure: its title, a text alternative, and a caption in words. All of them are plain text."""
    said = escape(f"{title}. {alternative(figure)}", quote=True)
    height = figure["layout"]["height"]
    place = f'<div class="plot" id="{name}" role="img" aria-label="{said}" style="height:{height}px"></div>'
    below = f'<figcaption id="{name}-words">{escape(caption)}</figcaption>' if caption else ""
    return f"<figure><h3>{escape(title)}</h3>{place}{below}</figure>"


def facts(title: str, rows: Iterable[tuple[str, str]], empty: str = "None.") -> str:
    """A box of keys and values, both plain text. A long key breaks at its dots, where it must."""
    pairs = [f"<dt>{escape(key).replace('.', '.<wbr>')}</dt><dd>{escape(value)}</dd>" for key, value in rows]
    content = f"<dl>{''.join(pairs)}</dl>" if pairs else f'<p class="none">{escape(empty)}</p>'
    return f"<details open><summary>{escape(title)}</summary>{content}</details>"


def _json(data: object) -> str:
    """JSON for a script element: `<` is written so that no string can end the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c")
