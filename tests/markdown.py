"""What the project's Markdown holds: code blocks with their markers, headings, links."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import NamedTuple

from tests.paths import ROOT

README = ROOT / "README.md"
DOCS = (README, *sorted((ROOT / "docs").glob("*.md")))
PAGES = (*DOCS, ROOT / "CHANGELOG.md", *sorted((ROOT / "results").rglob("*.md")))

_FENCE = re.compile(
    r"(?:^ *<!-- (?P<marker>[^\n]*?) -->\n\n?)?"
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^ *```$",
    re.M | re.S,
)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    marker: str | None  # of the comment right before it

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The lines of a block for a shell, without comments."""
        lines = (line.partition("  #")[0].strip() for line in self.text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]

    @property
    def file(self) -> str | None:
        """The file that the block is written to: the comment that it begins with."""
        match = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return match and match[1]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in their order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        indent = match["indent"]
        content = re.sub(f"^{indent}", "", match["text"], flags=re.M)
        line = text[: match.start("language")].count("\n") + 1
        found.append(Block(page, line, match["language"], content, match["marker"]))
    return found


def links(page: Path) -> list[str]:
    """Targets of all links and images."""
    return re.findall(r"\]\(([^)\s]+)\)", _without_code(page))


def anchors(page: Path) -> set[str]:
    """What a link can lead to on a page: its headings, named as GitHub names them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.*)$", _without_code(page), re.M):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        names = (f"{slug}-{i}" if i else slug for i in count())
        found.add(next(name for name in names if name not in found))
    return found


def _without_code(page: Path) -> str:
    return _FENCE.sub("", page.read_text())
