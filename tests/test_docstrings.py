"""Docstrings say the shape of every array and the unit of every number that a function takes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGES = ("dime_robot", "export", "ros_nodes")
MODULES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
ARRAY = re.compile(r"\b(Tensor|ndarray|NDArray|\w*Array|ArrayLike)\b")
NUMBER = re.compile(r"float( \| None)?")
SHAPE = re.compile(r"\([^()]*\)")
UNIT = re.compile(r"\[[^\]]+\]")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(node: ast.Module | ast.ClassDef) -> Iterator[Function]:
    """Functions and methods whose names, and whose classes' names, have no leading underscore."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
            yield from public_functions(child) if isinstance(child, ast.ClassDef) else [child]


def described(docstring: str) -> dict[str, str]:
    """What the section `Args` says of each argument."""
    section = re.search(r"^Args:\n((?: +.*\n?|\n)*)", docstring, re.M)
    entries = re.findall(
        r"^    \**(\w+): ((?:.*\n?)(?:^     .*\n?)*)", section[1] if section else "", re.M
    )
    return dict(entries)


def incomplete(function: Function) -> list[str]:
    """Arguments whose shape or unit a function's docstring does not say.

    The rule: an argument that is annotated as an array or tensor stands in `Args` with its shape
    in round brackets, and one that is annotated as a float with its unit in square ones, `[1]` for
    none.
    """
    texts = described(ast.get_docstring(function) or "")
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    found = []
    for argument in given:
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        needed = SHAPE if ARRAY.search(kind) else UNIT if NUMBER.fullmatch(kind) else None
        if needed and not needed.search(texts.get(argument.arg, "")):
            found.append(argument.arg)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_say_shapes_and_units(path: Path) -> None:
    functions = public_functions(ast.parse(path.read_text()))
    lacking = {f"{f.name} (line {f.lineno})": names for f in functions if (names := incomplete(f))}
    assert not lacking, f"Args lacks a shape (...) or unit [...]: {lacking}"


def test_the_rule_finds_what_is_missing() -> None:
    source = '''
class Public:
    def good(self, x: Tensor, dt: float, name: str) -> None:
        """Do.

        Args:
            x: latents,
                shape (B, d).
            dt: step [s].
            name: of it.
        """

    def bad(self, x: npt.NDArray[np.float32], y: Tensor, dt: float | None, *, gain: float) -> None:
        """Take x (B, d).

        Args:
            x: latents.
            dt: step.
            gain: factor [1].

        Returns:
            y: (B, d).
        """

    def _private(self, x: Tensor) -> None: ...
'''
    good, bad = public_functions(ast.parse(source))
    assert incomplete(good) == []
    assert incomplete(bad) == ["x", "y", "dt"]
