"""The terms of this package, as text: names, parameters, units and what each does."""

from __future__ import annotations

import inspect

from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.task import SECTIONS
from dime_robot.sim.tasks.lookup import OURS, Term, our_terms


def listed(wanted: str | None) -> list[str]:
    """Return the lines of `python -m dime_robot.config terms`.

    Args:
        wanted: a section, whose terms are listed in a line each, or the name of a term, whose whole
            description is shown; None: every section.

    Raises:
        InputError: there is no such section or term.
    """
    if wanted is None or wanted in SECTIONS:
        sections = SECTIONS if wanted is None else (wanted,)
        return [line for section in sections for line in _section(section)]
    found = [section for section in SECTIONS if wanted in our_terms(section)]
    if not found:
        raise InputError(
            f"expected a section, {', '.join(SECTIONS)}, or the name of a term, got {wanted!r:.60}"
        )
    lines: list[str] = []
    for section in found:
        term: Term = getattr(OURS[section], wanted)
        lines += [f"{section}: {_call(term)}", "", inspect.getdoc(term) or "", ""]
    return lines[:-1]


def _section(section: str) -> list[str]:
    rows = []
    for name in our_terms(section):
        term: Term = getattr(OURS[section], name)
        sentence = " ".join((inspect.getdoc(term) or "").partition("\n\n")[0].split())
        rows.append((_call(term), sentence))
    width = max(len(call) for call, _ in rows)
    return [f"{section}:", *(f"  {call:{width}s}  {sentence}" for call, sentence in rows), ""]


def _call(term: Term) -> str:
    """Return a term with its parameters; those with a default in brackets."""
    target = term.__init__ if inspect.isclass(term) else term
    skipped = 2 if inspect.isclass(term) else 1  # self and the view
    words = []
    for argument in list(inspect.signature(target).parameters.values())[skipped:]:
        optional = argument.default is not inspect.Parameter.empty
        words.append(f"[{argument.name}]" if optional else argument.name)
    return " ".join([term.__name__, *words])
