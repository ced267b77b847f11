"""Every test gets a ROS graph of its own; with `-n`, one worker runs them all.

They watch real time: two graphs at once on two cores would time each other. What else keeps a
shared machine busy is not ours to choose, so a test of processes in real time has four more tries.
A fault of ours comes back in each; a try that failed is listed as RERUN in the summary. In lockstep
no clock runs, and one try has to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ros_nodes.cyclone_peer.build import build
from tests.ros_nodes.graph import Graph, domain
from tests.ros_nodes.unitree_messages.build import CannotBuildError, messages_folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("ros"))
            if item.get_closest_marker("slow") and "lockstep" not in item.name:
                item.add_marker(pytest.mark.flaky(reruns=4, reruns_delay=1))


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    with domain() as number:
        graph = Graph(number, tmp_path)
        yield graph
        graph.close()


@pytest.fixture
def silent_graph(tmp_path: Path) -> Iterator[Graph]:
    """One whose watcher does not listen to commands."""
    with domain() as number:
        graph = Graph(number, tmp_path, listen=False)
        yield graph
        graph.close()


@pytest.fixture(scope="session")
def unitree_messages() -> Path:
    """Folder of unitree_go and unitree_api, for PYTHONPATH or `monkeypatch.syspath_prepend`."""
    try:
        return messages_folder()
    except CannotBuildError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def cyclone_peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Program for `CyclonePeer`: a process with the DDS that a Go2 is said to run."""
    try:
        return build("peer", tmp_path_factory.mktemp("cyclone_peer"))
    except CannotBuildError as missing:
        pytest.skip(str(missing))
