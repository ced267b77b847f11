"""A short real run and its export, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dime_robot import train
from export import onnx as export_onnx


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "cartpole"
    options = ["--steps", "300", "--random-steps", "50", "--eval-interval", "300", "--no-video"]
    train.main([*options, "--out", str(folder)])
    return folder / "ckpt.pt"


@pytest.fixture(scope="session")
def policy_path(checkpoint_path: Path) -> Path:
    assert export_onnx.main([str(checkpoint_path)]) == 0
    return checkpoint_path.with_name("policy.onnx")
