"""The text of a drafted configuration: short lines of YAML, guesses marked with `# ?`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dime_robot.sim.draft.patterns import Fields, name_text

WIDTH = 100  # of a line without its comment
COLUMN = 29  # of comments, where a line is shorter
MARK = "# ?"  # in front of the reason of a guess


class Text:
    """Lines of YAML.

    Attributes:
        guesses: place -> why it is only guessed, for all marked lines.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._place: list[tuple[int, str]] = []
        self.guesses: dict[str, str] = {}

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"

    def blank(self) -> None:
        """Add an empty line."""
        self._lines.append("")

    def remark(self, indent: int, text: str) -> None:
        """Add a line that is only a comment.

        Args:
            indent: spaces in front of it.
            text: of the comment.
        """
        self._lines.append(f"{' ' * indent}# {text}")

    def line(self, indent: int, text: str, comment: str = "", why: str = "") -> None:
        """Add a line.

        Args:
            indent: spaces in front of it.
            text: YAML.
            comment: behind it.
            why: it is only guessed; empty: it is known or a choice.
        """
        self._enter(indent, text.removeprefix("- ").partition(":")[0].strip('"'))
        if why:
            self.guesses[self._path()] = why
        self._write(" " * indent + text, comment, why)

    def _enter(self, indent: int, key: str) -> None:
        self._place = [(i, k) for i, k in self._place if i < indent] + [(indent, key)]

    def _path(self, *more: str) -> str:
        return ".".join([*(part for _, part in self._place), *more])

    def _write(self, full: str, comment: str, why: str) -> None:
        note = "; ".join(part for part in (why, comment) if part)
        sign = MARK if why else "#"
        self._lines.append(f"{full:<{COLUMN - 2}}  {sign} {note}" if note else full)

    def names(self, indent: int, key: str, names: Sequence[str], why: str = "") -> None:
        """Add a list of names, in several lines where one is too long.

        Args:
            indent: spaces in front of it.
            key: of the list.
            names: the list.
            why: their order is only guessed.
        """
        self._enter(indent, key)
        if why:
            self.guesses[self._path()] = why
        head = f"{' ' * indent}{key}: ["
        *above, last = _wrapped(head, [name_text(name) for name in names])
        self._lines += above
        self._write(f"{last}]", "", why)

    def table(self, indent: int, rows: Mapping[str, Fields]) -> None:
        """Add a mapping of pattern or name -> fields, a line or two each."""
        for name, fields in rows.items():
            self._enter(indent, name)
            self.guesses |= {self._path(f): cell.why for f, cell in fields.items() if cell.why}
            head = f"{' ' * indent}{name_text(name)}: {{"
            *above, last = _wrapped(
                head, [f"{field}: {cell.text}" for field, cell in fields.items()]
            )
            self._lines += above
            self._write(f"{last}}}", "", _why(fields))


def _wrapped(head: str, parts: Sequence[str]) -> list[str]:
    """Return a head and parts with commas between them, in lines of up to WIDTH characters."""
    rows = [head]
    for i, part in enumerate(parts):
        word = part + (", " if i + 1 < len(parts) else "")
        if len(rows[-1]) + len(word) > WIDTH and rows[-1].strip() and i:
            rows[-1] = rows[-1].rstrip()
            rows.append(" " * len(head))
        rows[-1] += word
    return rows


def _why(fields: Fields) -> str:
    """Return which fields of a line are guessed, and why."""
    reasons: dict[str, list[str]] = {}
    for field, cell in fields.items():
        if cell.why:
            reasons.setdefault(cell.why, []).append(field)
    return "; ".join(
        f"{', '.join(names).replace('stiffness, damping', 'gains')}: {why}"
        for why, names in reasons.items()
    )
