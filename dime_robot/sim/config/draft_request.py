"""DraftRequest: what `python -m dime_robot.config new` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

TaskName: TypeAlias = Literal["velocity", "reach", "joint-tracking", "none"]
TASKS: tuple[TaskName, ...] = ("velocity", "reach", "joint-tracking", "none")
Base: TypeAlias = Literal["auto", "fixed", "floating"]
BASES: tuple[Base, ...] = ("auto", "fixed", "floating")


@dataclass(frozen=True)
class DraftRequest:
    """What to draft, and from what."""

    model: str  # path of MJCF or URDF, or menagerie:NAME[/ENTRY]
    name: str | None = None  # of robot, policy and file; None: from the model's
    only: str | None = None  # regular expression of the joints that the policy moves; None: all
    task: TaskName | None = None  # None: what fits best
    output: Path | None = None  # None: NAME.yaml in the current folder
    base: Base = "auto"  # of URDF: whether the root link moves freely
    force: bool = False  # whether files may be replaced
