"""The Go2 stands up, walks, is switched between policies and lies down, through the whole loop."""

from __future__ import annotations

import pytest

from benchmarks import phases, switching

pytestmark = pytest.mark.slow


def test_it_stands_up_from_where_it_lies_walks_and_lies_down(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert phases.main(["--starts", "8"]) == 0
    assert "8 of 8 stood up, 8 walked, 8 lie at rest" in capsys.readouterr().out


def test_it_is_switched_while_it_walks(capsys: pytest.CaptureFixture[str]) -> None:
    assert switching.main(["--switches", "100"]) == 0
    text = capsys.readouterr().out
    assert "falls      0, steps held or damped 0" in text
    assert "gap        at most 1.00 periods" in text
    assert text.count("equal bit for bit") == 2
