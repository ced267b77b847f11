"""A missing optional package is one sentence with the command that installs it."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def require_extra(extra: str, *modules: str) -> None:
    """End the process with code 2 unless all modules can be imported.

    Call it before the imports of a command's module, where that is the program being run.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        print(
            f"error: this needs {', '.join(missing)}: pip install -e '.[{extra}]' in the clone of"
            " dime_robot",
            file=sys.stderr,
        )
        sys.exit(2)
