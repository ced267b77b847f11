"""Environments as functions and as objects: trained, evaluated, resumed, and named by no file."""

from __future__ import annotations

import copy
import functools
import threading
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

import dime_robot as dr
from dime_robot import evaluate, train
from dime_robot.envs import env_name
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.env_name import file_may_name
from dime_robot.training import checkpoint
from dime_robot.training.run import EvaluationEvent
from export import onnx

SMALL: dict[str, Any] = {
    **{"steps": 120, "random_steps": 50, "eval_interval": 40, "eval_episodes": 2},
    **{"actor_width": 16, "critic_width": 16, "batch_size": 16, "v_min": -30.0, "v_max": 0.0},
}
ALIVE: list[Reach] = []


class Reach(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point on a line shall go to 0."""

    def __init__(self, friction: float = 0.0) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-3.0, 3.0, (1,), np.float32)
        self.friction, self.steps, self.closed = friction, 0, False
        ALIVE.append(self)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2)
        return self.state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        position, velocity = self.state
        velocity = (1 - self.friction) * velocity + 0.05 * float(action[0])
        self.state = np.clip([position + 0.05 * velocity, velocity], -1, 1)
        return self.state.astype(np.float32), -float(position**2), False, False, {}

    def close(self) -> None:
        self.closed = True


def reach() -> TimeLimit[Any, Any]:
    return TimeLimit(Reach(), 30)


def weights(folder: Path) -> dict[str, Any]:
    return checkpoint.load(folder / "ckpt.pt").learner.actor


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "run"
    run = dr.train_policy(reach, out=out, quiet=True, **SMALL)
    assert run.finished
    return out


def test_a_function_trains_and_its_policy_is_evaluated_with_it(trained: Path) -> None:
    assert yaml.safe_load((trained / "config.yaml").read_text())["env"] == "python:reach"
    ours = dr.evaluate_policy(trained, env=reach, episodes=3, seed=1)
    assert len(ours.returns) == 3
    assert ours == dr.evaluate_policy(dr.load_policy(trained), env=reach, episodes=3, seed=1)
    assert ours == dr.evaluate_policy(trained, env=reach(), episodes=3, seed=1)
    assert ours != dr.evaluate_policy(trained, env=functools.partial(Reach, 0.9), episodes=3)


def test_a_class_is_a_function_and_all_that_was_made_is_closed(tmp_path: Path) -> None:
    ALIVE.clear()
    own = functools.partial(TimeLimit, max_episode_steps=20)
    dr.train_policy(lambda: own(Reach()), out=tmp_path / "run", quiet=True, **SMALL)
    assert len(ALIVE) > 20, "one to train in, one each for the episodes of an evaluation"
    assert all(env.closed for env in ALIVE)


def test_a_callback_ends_a_run_which_goes_on_with_the_same_function(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def until_80(event: EvaluationEvent) -> bool:
        return event.step < 80

    stopped = dr.train_policy(reach, out=tmp_path / "run", callback=until_80, **SMALL)
    assert (stopped.finished, stopped.evaluations[-1].step) == (False, 80)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("note: no file can name python:reach") == 1
    resumed = dr.train_policy(reach, resume=stopped.folder, quiet=True)
    assert resumed.finished
    for name, value in weights(trained).items():
        assert np.array_equal(value, weights(resumed.folder)[name]), name


def test_an_object_is_copied_and_stays_as_it_was_given(trained: Path, tmp_path: Path) -> None:
    """Training and evaluation never share state: the run is that of the function, bit for bit."""
    env = reach()
    env.reset(seed=7)
    before = copy.deepcopy(env.unwrapped.__dict__)
    run = dr.train_policy(env, out=tmp_path / "run", quiet=True, **SMALL)
    for name, value in weights(trained).items():
        assert np.array_equal(value, weights(run.folder)[name]), name
    after = env.unwrapped.__dict__
    assert np.array_equal(before.pop("state"), after["state"])
    assert (after["steps"], after["closed"]) == (before["steps"], before["closed"])
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["env"] == "python:Reach"


def test_a_mujoco_object_is_copied(tmp_path: Path) -> None:
    env = gymnasium.make("InvertedPendulum-v5")
    run = dr.train_policy(env, out=tmp_path / "run", quiet=True, **(SMALL | {"steps": 60}))
    by_id = dr.train_policy(
        "InvertedPendulum-v5", out=tmp_path / "id", quiet=True, **(SMALL | {"steps": 60})
    )
    assert [r.return_mean for r in run.evaluations] == [r.return_mean for r in by_id.evaluations]


class Locked(Reach):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (Locked(), "python:Locked: expected an environment that copy.deepcopy can copy"),
        (lambda: 3, "python:lambda: expected a function that returns a gymnasium.Env, got int"),
        (lambda: 1 / 0, r"python:lambda: cannot be made here: ZeroDivisionError"),
        (lambda size: size, r"python:lambda: cannot be made here: TypeError"),
        (3, "env: expected a name, a gymnasium.Env or a function that makes one, got int"),
        ("python:reach", "python:reach: stands for an environment that a Python program made"),
    ],
)
def test_what_gives_no_environment_is_one_sentence(env: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as error:
        dr.train_policy(env, out=tmp_path / "run", quiet=True, **SMALL)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_function_that_gives_the_same_object_again_is_refused(tmp_path: Path) -> None:
    env = reach()
    with pytest.raises(InputError, match="makes a new environment at each call, got one that is"):
        dr.train_policy(lambda: env, out=tmp_path / "run", quiet=True, **SMALL)
    assert len(dr.evaluate_policy(tmp_path / "run", env=lambda: env, episodes=1).returns) == 1
    with pytest.raises(InputError, match="makes a new environment at each call"):
        dr.evaluate_policy(tmp_path / "run", env=lambda: env, episodes=2)


@pytest.mark.parametrize(
    "call",
    [
        lambda run: train.main(["--resume", str(run), "--no-video", "--steps", "200"]),
        lambda run: evaluate.main([str(run), "--episodes", "1"]),
        lambda run: onnx.main([str(run / "ckpt.pt")]),
        lambda run: dr.export_policy(run / "ckpt.pt"),
        lambda run: dr.train_policy(resume=run, steps=200),
        lambda run: dr.evaluate_policy(run),
        lambda run: dr.load_policy(run).predict([0.0, 0.0]),
    ],
)
def test_no_file_names_an_environment_of_a_program(call: Any, trained: Path) -> None:
    before = (trained / "ckpt.pt").read_bytes()
    with pytest.raises(InputError, match=r"evaluate_policy\(path, env=factory\)") as error:
        call(trained)
    assert "'python:reach'" in str(error.value) and "\n" not in str(error.value)
    assert "register the environment with Gymnasium and train by its id" in str(error.value)
    assert (trained / "ckpt.pt").read_bytes() == before


def test_a_policy_file_holds_a_name_and_no_function(trained: Path) -> None:
    with pytest.raises(InputError, match="env: expected the name of an environment, as"):
        dr.export_policy(trained / "ckpt.pt", env=reach)  # type: ignore[arg-type]
    assert not (trained / "policy.onnx").exists()


def test_an_id_that_the_user_names_is_taken(trained: Path, capsys: Any) -> None:
    gymnasium.register("OwnReach-v0", entry_point=Reach, max_episode_steps=30)
    assert evaluate.main([str(trained), "--episodes", "1", "--env", "OwnReach-v0"]) == 0
    with pytest.raises(InputError, match="stands for an environment that a Python program made"):
        evaluate.main([str(trained), "--episodes", "1", "--env", "python:reach"])


def test_names_say_what_was_given_and_are_never_a_files() -> None:
    for env, name in (
        (reach, "python:reach"),
        (Reach, "python:Reach"),
        (Reach(), "python:Reach"),
        (reach(), "python:Reach"),
        (lambda: Reach(), "python:lambda"),
        (functools.partial(Reach, 0.1), "python:Reach"),
        ("Pendulum-v1", "Pendulum-v1"),
    ):
        assert env_name(env) == name
        assert file_may_name(name) == (name == "Pendulum-v1")


def test_the_report_repeats_it_from_python(trained: Path) -> None:
    from dime_robot.report import write_report

    text = write_report(trained).read_text()
    assert "train_policy(reach, preset=&#x27;tiny&#x27;, steps=120" in text
    assert "--env python:" not in text
