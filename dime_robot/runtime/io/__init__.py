"""Files and command lines: bounded and checked; an error is one sentence and exit code 2."""
