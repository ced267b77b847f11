"""Runs with critics that see more than the policy, and with mirrored transitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dime_robot import train
from dime_robot.envs import make_env
from dime_robot.learning.replay_buffer import Batch
from dime_robot.loaded_policy import evaluate_policy, load_policy
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.robot_env import RobotEnv
from dime_robot.training import checkpoint
from dime_robot.training.run import TrainingRun
from export.graph import build, fold
from tests.test_train import SMALL, assert_equal_weights
from tests.training.test_vector_env import stop_at

TASK = {
    "extends": "sim:go2-wide",
    "task": {"episode_seconds": 0.4},
    "curriculum": [
        {"name": "short", "randomization": 0.5, "latency": 0.5, "episodes": 4, "passed": 0.0,
         "errors": {"velocity_error": 9.0}, "task": {"episode_seconds": 0.2}},
    ],
}  # fmt: skip
BOTH = ["--symmetry", "--asymmetric-critic"]
PARALLEL = ["--num-envs", "3", "--update-to-data", "0.5", "--n-step", "2", "--steps", "150"]
N_OBS, N_ACT, MORE = 45, 12, 56


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "short.yaml"
    path.write_text(yaml.safe_dump(TASK))
    return path


def words(task: Path, folder: Path, *options: str) -> list[str]:
    more = ["--env", f"sim:{task}", *PARALLEL, "--eval-interval", "1000"]
    return [*SMALL, *more, "--out", str(folder), *options]


@pytest.fixture(scope="module")
def run(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train.main(words(task, folder, *BOTH)) == 0
    return folder


def changed(task: Path, folder: Path, **privileged: Any) -> Path:
    content = {"extends": str(task), "task": {"privileged": privileged}}
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


# -- the environment -----------------------------------------------------------------------------


def test_an_observation_begins_with_what_the_policy_sees(task: Path) -> None:
    """In the whole task and in a level, at resets and steps, with the same random numbers."""
    plain, wide = (make_env(f"sim:{task}", privileged=more) for more in (False, True))
    assert plain.observation_space.shape == (N_OBS,)
    assert wide.observation_space.shape == (N_OBS + MORE,)
    random = np.random.default_rng(0)
    for options in (None, {"level": 0}):
        ours, theirs = (env.reset(seed=4, options=options)[0] for env in (plain, wide))
        for _ in range(8):
            np.testing.assert_array_equal(ours, theirs[:N_OBS])
            action = random.uniform(-1, 1, N_ACT).astype(np.float32)
            (ours, *rest), (theirs, *others) = plain.step(action), wide.step(action)
            assert rest == others
    robot = wide.unwrapped
    assert isinstance(robot, RobotEnv)
    shown = dict(zip(robot.privileged_sizes, np.split(theirs[N_OBS:], np.cumsum(
        list(robot.privileged_sizes.values()))[:-1]), strict=True))  # fmt: skip
    assert shown["velocity"] == pytest.approx(robot.plant.base().velocity, rel=1e-5)
    drawn = {entry["kind"]: entry["value"] for entry in robot.randomizer.drawn()}
    # of this level half of the way from the nominal 1 [N m s/rad]
    nominal = RobotEnv("go2-nominal").plant.model.dof_damping[6]
    expected = nominal + 0.5 * (float(drawn["joint_damping"]) - nominal)  # type: ignore[arg-type]
    assert shown["joint_damping"] == pytest.approx([expected] * 2)
    assert 0 < shown["latency"][0] < 0.5 * 0.03


# -- a run ---------------------------------------------------------------------------------------


def test_stopped_and_resumed_equals_uninterrupted(
    run: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "halved"
    with monkeypatch.context() as patch:
        stop_at(patch, 131)
        assert train.main(words(task, folder, *BOTH)) == 0
    before = checkpoint.load(folder / "ckpt.pt").record
    assert max(episode.steps for episode in before.episodes) > 0
    dropped: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *given, **_: dropped.append(str(given)))
    resumed = ["--resume", str(folder), "--env", f"sim:{task}", "--no-video"]
    assert train.main(resumed) == 0
    assert not any("does not repeat itself" in line for line in dropped)
    assert_equal_weights(run, folder)
    ours, theirs = (checkpoint.load(each / "ckpt.pt").record for each in (run, folder))
    assert ours.episodes == theirs.episodes
    assert ours.replay.digests == theirs.replay.digests
    assert ours.curriculum == theirs.curriculum


def test_the_policy_knows_nothing_of_it(run: Path, task: Path) -> None:
    record = checkpoint.load(run / "ckpt.pt").record
    assert sum(term.size for term in record.privileged) == MORE
    assert record.privileged[0].name == "velocity"
    assert json.loads(record.privileged[2].entry)["feet"][0] == "FL_foot"
    assert record.replay.width == 2 * (N_OBS + MORE) + N_ACT + 2
    assert record.spec.n_obs == N_OBS
    actor, loaded = checkpoint.load_actor(run / "ckpt.pt")
    assert actor.trunk[0].in_features == N_ACT + N_OBS + 16  # latents, observation, time
    assert loaded.learner.critic["weights.0"].shape[1] == N_OBS + MORE + N_ACT
    graph = build(fold(actor, loaded.spec), 1).graph
    sizes = {each.name: [d.dim_value for d in each.type.tensor_type.shape.dim]
             for each in graph.input}  # fmt: skip
    assert sizes["observation"] == [1, N_OBS]
    policy = load_policy(run / "ckpt.pt")
    assert policy.act(np.zeros(N_OBS)).shape == (N_ACT,)
    with pytest.raises(InputError, match=r"expected an observation of shape \(45,\)"):
        policy.act(np.zeros(N_OBS + MORE))
    assert len(evaluate_policy(policy, episodes=1, env=f"sim:{task}").returns) == 1


def test_other_values_are_refused_on_resume(run: Path, task: Path, tmp_path: Path) -> None:
    for privileged, message in (
        ({"height": None}, r"the terms \['velocity', 'height', .*, got \['velocity', 'foot_for"),
        ({"strength": {"joints": "*_calf_joint"}}, "strength with 12 numbers of .*, got 4 of "),
        ({"joint_damping": {"which": "armature"}}, "joint_damping with 2 numbers of .*armature"),
    ):
        resumed = ["--resume", str(run), "--env", f"sim:{changed(task, tmp_path, **privileged)}"]
        with pytest.raises(InputError, match=message) as error:
            train.main([*resumed, "--steps", "200"])
        assert "\n" not in str(error.value)
        assert str(error.value).endswith("--init, whose critics start anew")


@pytest.mark.parametrize("wide", [True, False])
def test_init_takes_the_actor_alone_where_critics_see_other_values(
    wide: bool, run: Path, task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """From a run with privileged values to one with the same and to one without."""
    stop_at(monkeypatch, 3)
    folder, init = tmp_path / "run", str(run / "ckpt.pt")
    options = ["--init", init, *(["--asymmetric-critic"] if wide else [])]
    assert train.main(words(task, folder, *options)) == 0
    out, err = capsys.readouterr()
    assert ("its critics see other privileged values (56 numbers)" in err) == (not wide)
    line = next(line for line in out.splitlines() if line.startswith("env "))
    more = " and 56 privileged values for the critics" if wide else ""
    assert line.endswith(f": 45 observations{more}, 12 actions, 50 Hz")
    ours, theirs = (checkpoint.load(each / "ckpt.pt").learner for each in (folder, run))
    assert all(torch.equal(ours.actor[name], value) for name, value in theirs.actor.items())
    assert torch.equal(ours.log_alpha, theirs.log_alpha)
    rows = N_OBS + N_ACT + (MORE if wide else 0)
    assert ours.critic["weights.0"].shape[1] == rows
    if wide:
        assert torch.equal(ours.critic["weights.0"], theirs.critic["weights.0"])
    else:
        assert ours.critic["passes"] == 0


def test_the_option_mirrors_the_transitions_of_a_run(task: Path, tmp_path: Path) -> None:
    config = train.parse(words(task, tmp_path / "run", "--symmetry")).config
    run = TrainingRun(config, tmp_path, torch.device("cpu"))
    batch = Batch(*(torch.ones(8, size) for size in (N_OBS, N_ACT, N_OBS)), *torch.ones(2, 8))
    assert run.agent._mirror is not None
    rows = run.agent._mirror(batch, run.agent.generator).obs
    assert {row.tolist()[0] for row in rows} == {1.0, -1.0}  # the roll rate
    run.close()


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "option", "message"),
    [
        ("Pendulum-v1", "--symmetry",
         "^--symmetry: expected a robot task whose file has a section `symmetry:`, got Pendulum"),
        ("sim:cartpole", "--symmetry",
         "^--symmetry: .*cartpole.yaml: expected a section `symmetry:`, .*, got none"),
        ("Pendulum-v1", "--asymmetric-critic",
         "^--asymmetric-critic: expected a robot task .* task.privileged, .*, got Pendulum-v1"),
        ("sim:go2", "--asymmetric-critic",
         r"go2.yaml: expected a section task.privileged, .*\(--asymmetric-critic\), got none"),
    ],
)  # fmt: skip
def test_an_environment_without_them_is_one_sentence(
    env: str, option: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as error:
        train.main([*SMALL, "--env", env, option, "--out", str(tmp_path / "run")])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_level_sees_the_same_values(task: Path, tmp_path: Path) -> None:
    level = {"name": "a", "task": {"privileged": {"height": None}}}
    path = tmp_path / "level.yaml"
    path.write_text(yaml.safe_dump({"extends": str(task), "curriculum": [level]}))
    with pytest.raises(InputError, match=r"curriculum.a.task.privileged: expected it only in the"):
        RobotEnv(str(path))
