"""Models of MuJoCo Menagerie: `menagerie:NAME` or `menagerie:NAME/ENTRY`.

The package `mujoco-menagerie` downloads them. A folder of models, a clone of Menagerie for
instance, is used instead where MENAGERIE_ROOT names one.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from dime_robot.runtime.io.errors import InputError

PREFIX = "menagerie:"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def menagerie_model(name: str) -> Path:
    """Return the path of a model of Menagerie, which may be downloaded first.

    Args:
        name: `menagerie:NAME[/ENTRY]`; without an entry, the scene with a floor.

    Raises:
        InputError: there is no such model, or no way to get it.
    """
    robot, _, entry = name.removeprefix(PREFIX).partition("/")
    if not NAME.fullmatch(robot) or (entry and not NAME.fullmatch(entry)):
        raise InputError(f"expected menagerie:NAME or menagerie:NAME/ENTRY, got {name!r:.80}")
    root = os.environ.get("MENAGERIE_ROOT")
    if root:
        return _in_folder(Path(root), robot, entry)
    if find_spec("mujoco_menagerie") is None:
        raise InputError(
            f"{name}: expected the package mujoco-menagerie, got none: pip install"
            " mujoco-menagerie, or set MENAGERIE_ROOT to a clone of MuJoCo Menagerie"
        )
    menagerie = import_module("mujoco_menagerie")
    try:
        return Path(menagerie.get(robot).xml(entry.removesuffix(".xml") or None))
    except (menagerie.MenagerieError, LookupError, OSError) as error:
        raise InputError(f"{name}: {' '.join(str(error).split())}") from None


def _in_folder(root: Path, robot: str, entry: str) -> Path:
    folder = root / robot
    if not folder.is_dir():
        known = (
            sorted(each.name for each in root.iterdir() if each.is_dir()) if root.is_dir() else []
        )
        raise InputError(
            f"menagerie:{robot}: expected a folder in MENAGERIE_ROOT = {root}, one of"
            f" {', '.join(known) or 'none'}, got {robot}"
        )
    files = sorted(file.stem for file in folder.glob("*.xml"))
    wanted = entry.removesuffix(".xml") or ("scene" if "scene" in files else "")
    if not wanted and len(files) == 1:
        wanted = files[0]
    if wanted not in files:
        raise InputError(
            f"menagerie:{robot}: expected /ENTRY out of {', '.join(files) or 'none'}, got"
            f" {wanted or 'none'}"
        )
    return folder / f"{wanted}.xml"
