"""Make the site from the repository: MkDocs calls these functions during a build.

README.md is the start page, and the results and the changelog are pages too, so that no text is
duplicated. Links in the Markdown are relative paths in the repository; they are converted to links
to a page of the site, to a page that shows the code, or to a copy of the file. Equations become
MathML, which browsers show without a script.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {  # page of the site -> file of the repository; the others are in docs/
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "results/README.md": "results/README.md",
    "results/summary.md": "results/summary.md",
    "results/reference/README.md": "results/reference/README.md",
}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".xml": "xml", ".cff": "yaml"}
# code, which has no links, or a link: its text with the bracket, and its target
CODE_OR_LINK = re.compile(
    r"^ *```.*?^ *```$|`[^`\n]+`|(?P<text>!?\[[^\]]*\]\()(?P<target>[^)\s]+)\)", re.M | re.S
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, and every file that a page links to."""
    for uri, path in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for file in list(files.documentation_pages()):
        for match in CODE_OR_LINK.finditer(file.content_string):
            path = _repository_path(file.src_uri, match["target"] or "")
            if path and (ROOT / path).is_file() and not files.get_file_from_path(_uri(path)):
                files.append(_copied(config, path))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert the page's links to those of the site, and its equations to MathML."""

    def link(match: re.Match[str]) -> str:
        path = _repository_path(page.file.src_uri, match["target"] or "")
        if path is None:
            return match[0]
        _, hash_, anchor = match["target"].partition("#")
        target = posixpath.relpath(_uri(path), posixpath.dirname(page.file.src_uri) or ".")
        return f"{match['text']}{target}{hash_}{anchor})"

    markdown = re.sub(r"^```math\n(.*?)^```$", _display, markdown, flags=re.M | re.S)
    markdown = re.sub(r"\$`([^`\n]+)`\$", _inline, markdown)
    return CODE_OR_LINK.sub(link, markdown)


def _display(match: re.Match[str]) -> str:
    return f'<div style="margin: 1em 0">{convert(match[1].strip(), display="block")}</div>'


def _inline(match: re.Match[str]) -> str:
    # Markdown treats a line that begins with <math> as a block, but not one that begins with <span>
    return f"<span>{convert(match[1])}</span>"


def _repository_path(uri: str, target: str) -> str | None:
    """Return the path in the repository of a page's link; None: on the page itself, or external."""
    target = target.partition("#")[0]
    if not target or ":" in target:
        return None
    page = PAGES.get(uri, f"docs/{uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def _uri(path: str) -> str:
    """Return the path on the site of a file of the repository."""
    for uri, source in PAGES.items():
        if path == source:
            return uri
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{path}.md" if _is_code(path) else path


def _is_code(path: str) -> bool:
    return Path(path).suffix in LANGUAGES or Path(path).name == "LICENSE"


def _copied(config: MkDocsConfig, path: str) -> File:
    """Add a file of the repository to the site: code as a page, others unchanged."""
    if not _is_code(path):
        return File.generated(config, _uri(path), abs_src_path=str(ROOT / path))
    language = LANGUAGES.get(Path(path).suffix, "text")
    text = (ROOT / path).read_text()
    head = "---\nsearch: {exclude: true}\nhide: [toc]\n---\n"
    return File.generated(
        config,
        _uri(path),
        content=f"{head}# {path}\n\n````{language}\n{text}\n````\n",
        inclusion=InclusionLevel.NOT_IN_NAV,
    )
