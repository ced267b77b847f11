"""HTML pages: everything untrusted is escaped, figures are the same for the same data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dime_robot.results.html_page import html_page, html_table, inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVIL, ESCAPED = "<b>'&'", "&lt;b&gt;&#x27;&amp;&#x27;"


def test_a_page_escapes_its_title_and_keeps_its_body() -> None:
    page = html_page(EVIL, "<p>body</p>", "p { color: red }")
    assert page.startswith("<!doctype html>")
    assert f"<title>{ESCAPED}</title>" in page
    assert page.endswith("p { color: red }</style><p>body</p></html>\n")


def test_a_table_escapes_every_cell() -> None:
    assert html_table([(EVIL, 2)], (EVIL, "n"), "numbers") == (
        f'<table class="numbers"><tr><th>{ESCAPED}</th><th>n</th></tr>'
        f"<tr><td>{ESCAPED}</td><td>2</td></tr></table>"
    )
    assert "<tr><th>robot</th><td>cart</td></tr>" in html_table([("robot", "cart")])


def test_the_same_data_give_the_same_figure() -> None:
    def draw(figure: Figure) -> None:
        figure.add_subplot().plot([1, 2], [3, 4])

    svg = inline_svg(draw, (3.0, 2.0), EVIL)
    assert svg == inline_svg(draw, (3.0, 2.0), EVIL)
    assert svg.startswith(f'<svg role="img" aria-label="{ESCAPED}" ')
    assert "<metadata>" not in svg
