"""A missing optional package is one sentence with the command that installs it."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def require_extras(**modules: tuple[str, ...]) -> None:
    """End the process with code 2 unless all modules can be imported.

    Call it before the imports of a command's module, where that is the program being run.
    `modules`: extra -> what it brings. Only the extras that lack something are named: on a robot
    with a ROS of its own the wheels of `ros` would hide it.
    """
    lacking = {
        extra: [name for name in names if find_spec(name) is None]
        for extra, names in modules.items()
    }
    missing = [name for names in lacking.values() for name in names]
    if missing:
        extras = ",".join(extra for extra, names in lacking.items() if names)
        print(
            f"error: this needs {', '.join(missing)}: pip install -e '.[{extras}]' in the clone of"
            " dime_robot",
            file=sys.stderr,
        )
        sys.exit(2)
