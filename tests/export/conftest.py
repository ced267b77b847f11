"""A short real run and its export, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest

from dime_robot import train
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from export import closed_loop, proofs
from export import onnx as export_onnx


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "cartpole"
    options = ["--steps", "300", "--random-steps", "50", "--eval-interval", "300", "--no-video"]
    train.main([*options, "--out", str(folder)])
    return folder / "ckpt.pt"


@contextmanager
def short_proofs() -> Iterator[None]:
    """Proofs of few episodes, for tests of everything around them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_loop, "STAGES", (3, 30))
        patch.setattr(closed_loop, "REPEATED_EPISODES", 1)
        patch.setattr(proofs, "NOISE_EPISODES", 3)
        yield


@pytest.fixture(scope="session")
def policy_path(checkpoint_path: Path) -> Path:
    with short_proofs():
        assert export_onnx.main([str(checkpoint_path)]) == 0
    return checkpoint_path.with_name("policy.onnx")


@pytest.fixture(scope="session")
def all_modes_path(policy_path: Path) -> Path:
    """The same policy with every noise mode certified, whatever a short training earned."""
    policy = OnnxPolicy(policy_path)
    noise = {
        mode: result.model_copy(update={"certified": True})
        for mode, result in policy.file.provenance.noise.items()
    }
    provenance = policy.file.provenance.model_copy(update={"noise": noise})
    path = policy_path.with_name("all_modes.onnx")
    path.write_bytes(export_onnx.seal(onnx.load(policy_path), policy.spec, provenance))
    return path
