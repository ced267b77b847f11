"""A run with `--normalize-observations`: resumed, begun from another, evaluated, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from dime_robot import evaluate, train
from dime_robot.loaded_policy import load_policy
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.training import checkpoint
from dime_robot.training.run import TrainingRun
from export import onnx as export_onnx
from tests.export.conftest import short_proofs
from tests.test_train import assert_equal_weights, run, stop_at, weights

ON = "--normalize-observations"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A run, and all observations that it acted on."""
    folder = tmp_path_factory.mktemp("runs") / "normalized"
    seen = []
    original = TrainingRun._environment_step

    def environment_step(self: TrainingRun, logger: Any) -> None:
        seen.append(self.rollouts.envs.obs.copy())
        original(self, logger)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "_environment_step", environment_step)
        assert run("--out", str(folder), "--seed", "4", ON) == 0
    return folder, np.concatenate(seen)


def test_the_statistics_are_of_what_training_acted_on_and_not_of_evaluations(
    finished: tuple[Path, np.ndarray],
) -> None:
    folder, seen = finished
    state = checkpoint.load(folder / "ckpt.pt").learner.actor
    assert int(state["normalization.samples"]) == len(seen) == 130  # those of random actions too
    values = seen.astype(np.float64)
    for name, expected in (("mean", values.mean(axis=0)), ("var", values.var(axis=0))):
        np.testing.assert_allclose(state[f"normalization.running_{name}"], expected, rtol=1e-9)


@pytest.mark.parametrize("step", [23, 50, 51, 77])
def test_stopped_and_resumed_equals_uninterrupted(
    step: int,
    finished: tuple[Path, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Random actions end, and a checkpoint is due, at 50; the episode's steps are repeated."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        assert run("--out", str(folder), "--seed", "4", ON) == 0
    assert int(weights(folder)["actor.normalization.samples"]) == step
    assert train.main(["--resume", str(folder), "--no-video"]) == 0
    assert_equal_weights(folder, finished[0])
    with pytest.raises(InputError, match="normalize-observations False: the resumed run has True"):
        train.main(["--resume", str(folder), "--no-normalize-observations", "--steps", "140"])


def test_init_takes_the_statistics_along_or_says_what_does_not_fit(
    finished: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    init = ["--init", str(finished[0] / "ckpt.pt")]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 1)
        run("--out", str(tmp_path / "next"), *init, ON, "--seed", "9")
        run("--out", str(tmp_path / "plain"), "--seed", "9")
    before, after = weights(finished[0]), weights(tmp_path / "next")
    assert int(after["actor.normalization.samples"]) == 131
    assert torch.equal(before["actor.output.weight"], after["actor.output.weight"])
    with pytest.raises(InputError, match=r"trained with statistics .* give --normalize-obs"):
        run("--out", str(tmp_path / "x"), *init)
    plain = str(tmp_path / "plain" / "ckpt.pt")
    with pytest.raises(InputError, match=r"without statistics .* give --no-normalize-obs"):
        run("--out", str(tmp_path / "x"), "--init", plain, ON)
    assert not (tmp_path / "x").exists()


def test_a_checkpoint_whose_settings_say_otherwise_is_one_sentence(
    finished: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    loaded = checkpoint.load(finished[0] / "ckpt.pt")
    (stage,) = loaded.record.lineage
    config = stage.config.model_copy(update={"normalize_observations": False})
    record = loaded.record.model_copy(
        update={"lineage": (stage.model_copy(update={"config": config}),)}
    )
    checkpoint.save(tmp_path / "ckpt.pt", record, loaded.learner)
    with pytest.raises(InputError, match=r"not those its settings say: .* unknown .*samples"):
        checkpoint.load_actor(tmp_path / "ckpt.pt")


def test_it_is_evaluated_and_exported_with_its_statistics(
    finished: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = finished[0] / "ckpt.pt", tmp_path / "policy.onnx"
    with short_proofs():
        assert export_onnx.main([str(file), "--out", str(out)]) == 0
    for path in (file, out):
        assert evaluate.main([str(path), "--episodes", "2", "--noise", "zero"]) == 0
    capsys.readouterr()
    policy, state = OnnxPolicy(out), checkpoint.load(file).learner.actor
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    mean, var = (state[f"normalization.running_{name}"].numpy() for name in ("mean", "var"))
    np.testing.assert_array_equal(constants["offset"], -mean.astype(np.float32))
    std = np.maximum(np.sqrt(var), 0.1)
    np.testing.assert_allclose(constants["scale"], 1 / std, rtol=1e-6)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(1, 3)).astype(np.float32)
    noise = rng.normal(size=policy.noise.values.shape).astype(np.float32)
    expected = load_policy(file).act_with(obs, noise)
    np.testing.assert_allclose(policy.act_with(obs, noise), expected, atol=1e-5)
