"""HTML pages in one file each that open offline: the frame, tables, and figures as inline SVG.

Loads matplotlib only when a figure is drawn, so a robot without it can import this.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5c6b7a; --line: #d8dee5; --back: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf0; --soft: #9aa8b5; --line: #36424e; --back: #141a20 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
p.soft, caption, figcaption { color: var(--soft) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { border-bottom: 1px solid var(--line); padding: .3rem 1.2rem .3rem 0; text-align: left;
  vertical-align: top }
figure { margin: 1rem 0 } figure svg { background: #fff; border-radius: .4rem }
svg, video { width: 100%; height: auto; display: block }
code { overflow-wrap: anywhere }
"""


def html_page(title: str, body: str, style: str = "") -> str:
    """Make a complete HTML file.

    Args:
        title: of the page, as plain text.
        body: its content, as HTML.
        style: CSS rules in addition to those of every page.
    """
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style>{body}</html>\n"
    )


def html_table(rows: Iterable[Sequence[object]], head: Sequence[str] = (), kind: str = "") -> str:
    """Make an HTML table of plain text.

    Args:
        rows: cells of each row; every cell is escaped.
        head: titles of the columns; empty: the first cell of each row is its title.
        kind: CSS class.
    """

    def cells(values: Iterable[object], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)

    if head:
        lines = [cells(head, "th"), *(cells(row, "td") for row in rows)]
    else:
        lines = [cells(row[:1], "th") + cells(row[1:], "td") for row in rows]
    return f'<table class="{kind}">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def inline_svg(draw: Callable[[Figure], None], size: tuple[float, float], title: str) -> str:
    """Make a matplotlib figure as an SVG element: the same bytes for the same data.

    Args:
        draw: fills the figure.
        size: width and height [inches]; text has 10 points.
        title: description of the figure, for readers who cannot see it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # text is kept as text: outlines would depend on the installed fonts
    settings: Any = {"svg.hashsalt": "dime", "svg.fonttype": "none", "font.size": 10}
    no_metadata: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=no_metadata)
    drawing = text.getvalue().partition("<svg ")[2]
    return f'<svg role="img" aria-label="{html.escape(title)}" {drawing}'
