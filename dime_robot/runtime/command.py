"""How every command of this project ends: 0, or one sentence on stderr and 2."""

from __future__ import annotations

import sys
from collections.abc import Callable

from dime_robot.runtime.errors import InputError


def run_command(main: Callable[[], int]) -> None:
    """Run `main` and exit with its code; wrong input is one sentence and exit code 2."""
    try:
        code = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our output went away (| head)
        sys.stderr.close()
        code = 0
    except OSError as error:
        print(f"error: {error.filename or 'input/output'}: {error.strerror}", file=sys.stderr)
        code = 2
    sys.exit(code)
