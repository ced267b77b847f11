"""Foreign files and command lines: bounded, checked, one sentence and exit code 2."""
