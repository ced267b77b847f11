"""The provenance of a result: commit, versions, machine."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from dime_robot.runtime.telemetry.machine import cpu_model

PACKAGES = (
    "dime-robot",
    "torch",
    "numpy",
    "gymnasium",
    "mujoco",
    "dm_control",
    "onnx",
    "onnxruntime",
)

TASK = "task"  # key of the digest of a robot task, see sim/tasks/digest.py


def package_versions() -> dict[str, str]:
    """Return the installed version of each package that can change a result."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_commit() -> str:
    """Return the source tree's commit, with `+changes` if files differ from it, or `unknown`."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()

    try:
        if git("ls-files", "provenance.py") == "":  # installed into another repository
            return "unknown"
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def provenance() -> dict[str, str]:
    """Return a flat record for a checkpoint or a report."""
    return {
        "git_commit": git_commit(),
        "python": platform.python_version(),
        **package_versions(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
    }
