"""The documentation: the site builds without a warning, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dime_robot
from tests.markdown import PAGES, anchors, links
from tests.paths import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. mkdocs.yml makes every warning an error."""
    pytest.importorskip("material", reason="the site needs the extra docs: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING" not in result.stdout + result.stderr
    return folder


@pytest.mark.slow
def test_the_site_loads_nothing_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*?\bsrc=\"?([^\"\s>]+)", text)
        loaded += re.findall(r"<link[^>]*?\brel=\"?stylesheet\"?[^>]*?href=\"?([^\"\s>]+)", text)
        loaded += re.findall(r"<link[^>]*?href=\"?([^\"\s>]+)\"?[^>]*?rel=\"?stylesheet", text)
        assert loaded
        assert not [target for target in loaded if "//" in target], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text()), sheet


@pytest.mark.slow
def test_every_name_of_the_public_face_is_in_the_reference(site: Path) -> None:
    page = (site / "reference.html").read_text()
    for name in set(dime_robot.__all__) - {"__version__"}:
        assert re.search(rf'id="(?:dime_robot|export\.onnx)\.{name}"', page), name


@pytest.mark.slow
def test_equations_are_shown_without_a_script(site: Path) -> None:
    page = (site / "how_it_works.html").read_text()
    assert page.count("<math") > 40
    assert "$`" not in page
    assert r"\eta" not in page.replace(r"\eta</annotation>", "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_anchor_leads_somewhere(page: Path) -> None:
    assert not re.search(r"\[[^\]]*\(https?:", page.read_text()), "a link without its bracket"
    for link in links(page):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.is_file(), f"{link}: no such file"
        assert not anchor or anchor in anchors(file), f"{link}: no such heading"


def test_headings_get_the_anchors_that_github_gives_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b.c` - d: [e_f](g.md)?\n\n## Two\n\n## Two\n\n```\n# no heading\n```\n")
    assert anchors(page) == {"a-bc---d-e_f", "two", "two-1"}


def test_the_glossary_has_one_sentence_and_a_link_for_each_term() -> None:
    text = (ROOT / "docs/glossary.md").read_text()
    terms = re.findall(r"^### (.+)\n\n(.+)$", text, re.M)
    assert len(terms) == text.count("\n### ") > 50
    assert len({term for term, _ in terms}) == len(terms)
    for term, line in terms:
        assert re.fullmatch(r".*[^.]\. \[[^\]]+\]\([^)]+\)\.", line), term


def test_pages_that_code_names_exist() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.yaml", "*.yml", "*.toml", "*.xml", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    files = listed.stdout.split()
    named = {
        name
        for file in files
        for name in re.findall(r"(?<![\w/])docs/\w+\.\w+", (ROOT / file).read_text())
    }
    assert len(named) > 5
    theirs = {"docs/operators.md"}  # of onnx-tensorrt
    assert not [name for name in named - theirs if not (ROOT / name).exists()]
