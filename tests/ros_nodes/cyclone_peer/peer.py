"""The program `peer` as a process of a test."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

TIMEOUT = 20.0  # [s] for anything that must happen at all


class CyclonePeer:
    """A process on the robot's side of the wire, on the loopback interface; ready when made.

    Args:
        program: see `build`.
        domain: DDS domain.
        state_rate: with which it sends LowState [Hz].
        command_rate: with which it sends LowCmd, as a second writer [Hz].
        max_time: after which it ends by itself [s].
    """

    def __init__(
        self,
        program: Path,
        domain: int,
        state_rate: float = 0.0,
        command_rate: float = 0.0,
        max_time: float = 120.0,
    ) -> None:
        words = [str(program), *map(str, (domain, max_time, state_rate, command_rate))]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the peer did not start: {self.process.communicate()[1]}")

    def stop(self) -> dict[str, Any]:
        """End it; gives what it reports, which peer.c explains.

        Raises:
            RuntimeError: it had died before, or reports an error.
        """
        self.process.terminate()
        out, errors = self.process.communicate(timeout=TIMEOUT)
        if self.process.returncode:
            raise RuntimeError(f"the peer ended with {self.process.returncode}: {errors}")
        report: dict[str, Any] = json.loads(out)
        return report

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
