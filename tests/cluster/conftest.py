"""What holds for tests with a real Ray: the package is this tree, and nothing else is timed beside.

Clusters and graphs of ROS take turns in one worker of pytest: both wait for processes in real time.
A machine that halts can lose a node of Ray that nobody removed, so such a test has two more tries.
"""

import os
from pathlib import Path

import pytest

from tests.paths import ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.xdist_group("ros"))
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


@pytest.fixture(autouse=True)
def _this_tree_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes of a cluster that a test starts find this tree, wherever they run."""
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{known}")
