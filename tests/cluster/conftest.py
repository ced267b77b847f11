"""What holds for tests with a real Ray: it warns of itself, and the package is this tree."""

import os

import pytest

from tests.paths import ROOT


@pytest.fixture(autouse=True)
def _this_tree_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes of a cluster that a test starts find this tree, wherever they run."""
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{known}")
