"""`python -m dime_robot` lists the commands; `python -m dime_robot train ...` runs one."""

from __future__ import annotations

import runpy
import sys

COMMANDS = {
    "train": ("dime_robot.train", "train a policy in simulation"),
    "sweep": ("dime_robot.sweep", "many runs: tasks and seeds"),
    "evaluate": ("dime_robot.evaluate", "returns, videos and the robustness suite of a policy"),
    "report": ("dime_robot.report", "the report of a run, or figures of results"),
    "config": ("dime_robot.config", "check or compare configurations of robots"),
    "export": ("export.onnx", "write policy.onnx for a robot"),
    "certify": ("dime_robot.runtime.certify", "check and measure policy.onnx on this machine"),
}


def overview() -> str:
    """Return the list of commands, one line each."""
    lines = ["usage: python -m dime_robot COMMAND ..., or --help after a command", ""]
    lines += [
        f"  {name:10s}{what} (python -m {module})" for name, (module, what) in COMMANDS.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """See the module's docstring."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(overview())
        return
    if name not in COMMANDS:
        print(
            f"error: {name}: expected a command, one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
