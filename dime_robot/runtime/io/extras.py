"""Check for optional packages before a command imports them."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def require_extras(**modules: tuple[str, ...]) -> None:
    """End the process with exit code 2 and an install command unless all modules can be imported.

    Call it at the top of a command's module, before its imports, when that is run as a program.
    Only extras with a missing module are named: on a robot with its own ROS, the wheels of the
    extra `ros` would hide that.

    Args:
        modules: extra -> modules that it installs.
    """
    missing, extras = [], []
    for extra, names in modules.items():
        absent = [name for name in names if find_spec(name) is None]
        missing += absent
        extras += [extra] if absent else []
    if missing:
        print(
            f"error: this needs {', '.join(missing)}: pip install -e '.[{','.join(extras)}]' in the"
            " clone of dime_robot",
            file=sys.stderr,
        )
        sys.exit(2)
