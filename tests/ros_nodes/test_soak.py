"""Ten seconds at 200 Hz beside a bare echo: no growth of memory, hardly more losses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.slow


def test_ten_seconds_at_200_hz() -> None:
    command = [sys.executable, "-m", "benchmarks.ros_loop", "--soak", "10", "--rates", "200"]
    done = subprocess.run(
        [*command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert result["sent"] > 1_800
    # the published figure is 0.1 %; on a machine that halts, a way through two processes of ours
    # loses several times what the echo loses, which no process of ours can change
    assert result["lost_share"] <= 5 * result["echo_lost_share"] + 0.01
    assert result["memory_growth_kib"] < 512
    assert result["memory_mib"] < 200
