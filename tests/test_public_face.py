"""`import dime_robot as dr`: light, complete, and from a script what the commands do."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dime_robot as dr
from dime_robot.runtime.io.errors import InputError
from dime_robot.training.run import EvaluationEvent
from tests.paths import ROOT, SHIPPED_CARTPOLE, SHIPPED_GO2

HEAVY = {
    "torch",
    "gymnasium",
    "mujoco",
    "onnxruntime",
    "scipy",
    "numpy",
    "pydantic",
}
SMALL = {"steps": 120, "random_steps": 50, "eval_interval": 40, "eval_episodes": 1}


def printed(code: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(result.stdout.split())


def test_importing_it_loads_nothing_heavy() -> None:
    found = printed("import sys, dime_robot; print(*sys.modules)")
    assert "dime_robot" in found
    assert not found & HEAVY
    results = printed("import sys, dime_robot.results.curves; print(*sys.modules)")
    assert not results & {"torch", "gymnasium", "mujoco", "tensorboard"}


def test_every_name_stays_what_it_is_after_all_modules_are_imported() -> None:
    code = (
        "import importlib, pkgutil, dime_robot as dr\n"
        "names = [m.name for m in pkgutil.walk_packages(dr.__path__, 'dime_robot.')]\n"
        "for name in names:\n"
        "    if not name.endswith('__main__'): importlib.import_module(name)\n"
        "print(len(names) > 80)\n"
        "for name in dr.__all__: print(f'{name}={type(getattr(dr, name)).__name__}')\n"
    )
    found = printed(code)
    assert "True" in found
    kinds = dict(item.split("=") for item in found if "=" in item)
    assert set(kinds) == set(dr.__all__)
    for name, kind in kinds.items():
        if name.endswith("_policy") or name == "make_env":
            assert kind == "function"
    assert set(dr.__all__) <= set(dir(dr))
    with pytest.raises(AttributeError, match="no attribute 'train_robot'"):
        dr.train_robot  # noqa: B018


def test_an_exported_policy_acts_as_on_the_robot() -> None:
    policy, robot = dr.load_policy(SHIPPED_CARTPOLE), dr.OnnxPolicy(SHIPPED_CARTPOLE)
    rng = np.random.default_rng(0)
    first = None
    for _ in range(5):
        observation = rng.standard_normal(policy.spec.n_obs).astype(np.float32)
        action = policy.act(observation)
        assert action.shape == (policy.spec.n_act,)
        assert np.array_equal(action, robot.act(observation))
        if first is None:
            first, kept = action, action.copy()
    assert np.array_equal(first, kept), "each call gives a new array"


def test_one_and_several_observations_also_as_lists() -> None:
    policy = dr.load_policy(SHIPPED_CARTPOLE, noise="zero")
    one = [0.1] * policy.spec.n_obs
    assert policy.act(one).shape == (policy.spec.n_act,)
    several = policy.act([one, one, one])
    assert several.shape == (3, policy.spec.n_act)
    assert np.allclose(several, policy.act(one), atol=1e-6)
    fresh = dr.load_policy(SHIPPED_CARTPOLE).act([one, one, one])
    assert len(np.unique(fresh)) == 3, "each row has noise of its own"
    for wrong in ([0.1], [[one]], [], 1.0):
        with pytest.raises(InputError, match=r"expected an observation of shape \(5,\) or"):
            policy.act(wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_observation_that_is_not_finite_is_refused_by_its_place(value: float) -> None:
    policy = dr.load_policy(SHIPPED_CARTPOLE)
    with pytest.raises(InputError, match=r"expected a finite observation, got .* in element 3"):
        policy.act([0.0, 0.0, 0.0, value, 0.0])


@pytest.mark.parametrize("wrong", ["abc", None, {}, [[0.0], [0.0, 1.0]], object()])
def test_an_observation_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match=r"expected an observation of shape \(5,\) or"):
        dr.load_policy(SHIPPED_CARTPOLE).act(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["x", "all", None, 0, ["zero"]])
def test_a_noise_mode_is_one_of_three(mode: object) -> None:
    for call in (dr.load_policy, dr.evaluate_policy):
        with pytest.raises(InputError, match="noise: expected one of fresh, held, zero"):
            call(SHIPPED_CARTPOLE, noise=mode)  # type: ignore[operator]


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, True])
def test_a_seed_is_a_whole_number_of_0_or_more(seed: object) -> None:
    for call in (dr.load_policy, dr.evaluate_policy, dr.OnnxPolicy):
        with pytest.raises(InputError, match="seed: expected a whole number of 0 or more"):
            call(SHIPPED_CARTPOLE, seed=seed)  # type: ignore[operator]


@pytest.mark.parametrize("episodes", [0, -1, 1.5, "2", True])
def test_episodes_are_a_whole_number(episodes: object) -> None:
    with pytest.raises(InputError, match="episodes: expected a whole number of 1 or more"):
        dr.evaluate_policy(SHIPPED_CARTPOLE, episodes=episodes)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", ["fresh", "held"])
def test_a_copy_goes_on_with_the_same_noise(noise: str) -> None:
    policy = dr.load_policy(SHIPPED_CARTPOLE, noise=noise, seed=3)  # type: ignore[arg-type]
    observation = np.zeros(policy.spec.n_obs)
    policy.act(observation)
    twins = [copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))]
    for _ in range(3):
        action = policy.act(observation)
        for twin in twins:
            assert np.array_equal(twin.act(observation), action)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[EvaluationEvent]]:
    events: list[EvaluationEvent] = []

    def see(event: EvaluationEvent) -> None:
        events.append(event)

    out = tmp_path_factory.mktemp("public") / "run"
    trained = dr.train_policy("InvertedPendulum-v5", out=out, callback=see, quiet=True, **SMALL)
    assert trained.finished
    assert [row.step for row in trained.evaluations] == [event.step for event in events]
    return trained.folder, events


def test_a_callback_sees_every_evaluation(run: tuple[Path, list[EvaluationEvent]]) -> None:
    folder, events = run
    assert [event.step for event in events] == [0, 40, 80, 120]
    assert all(event.folder == folder for event in events)
    assert np.isfinite(events[-1].evaluation.summary()["return_mean"])


def test_a_callback_may_stop_a_run_which_then_goes_on(
    run: tuple[Path, list[EvaluationEvent]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = dr.train_policy(
        "InvertedPendulum-v5",
        out=tmp_path / "run",
        callback=lambda event: np.bool_(event.step < 80),
        quiet=True,
        **SMALL,
    )
    assert not stopped.finished
    assert stopped.evaluations[-1].step == 80
    resumed = dr.train_policy(resume=stopped.folder, quiet=True)
    assert resumed.finished
    assert capsys.readouterr().out == ""
    ours, theirs = dr.load_policy(resumed.folder / "ckpt.pt"), dr.load_policy(run[0] / "ckpt.pt")
    assert np.array_equal(ours.act([0.1, 0.0, 0.5, -0.2]), theirs.act([0.1, 0.0, 0.5, -0.2]))


def test_predict_gives_actions_in_the_environments_units(
    run: tuple[Path, list[EvaluationEvent]],
) -> None:
    policy = dr.load_policy(run[0] / "ckpt.pt", noise="zero")
    observation = [0.1, 0.05, 0.2, -0.3]
    action, state = policy.predict(observation)
    assert state is None
    assert action == pytest.approx(3 * policy.act(observation))  # its force is in [-3, 3]
    assert np.array_equal(action, policy.predict(observation)[0])
    fresh = [policy.predict(observation, deterministic=False)[0] for _ in range(2)]
    assert not np.array_equal(*fresh)
    assert np.abs(fresh).max() <= 3
    assert np.array_equal(action, policy.predict(observation)[0])
    assert action == pytest.approx(3 * policy.act(observation)), "act keeps its own noise"


def test_a_copy_of_a_file_that_was_replaced_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "policy.onnx"
    file.write_bytes(SHIPPED_CARTPOLE.read_bytes())
    kept = pickle.dumps(dr.load_policy(file))
    file.write_bytes((SHIPPED_GO2).read_bytes())
    with pytest.raises(InputError, match="expected the policy that was copied"):
        pickle.loads(kept)


def test_a_policy_is_evaluated_as_by_the_command(
    run: tuple[Path, list[EvaluationEvent]], capsys: pytest.CaptureFixture[str]
) -> None:
    from dime_robot import evaluate

    path = run[0] / "ckpt.pt"
    ours = dr.evaluate_policy(path, episodes=2, seed=1)
    assert ours == dr.evaluate_policy(dr.load_policy(path), episodes=2, seed=1)
    evaluate.main([str(path), "--episodes", "2", "--seed", "1", "--noise", "fresh"])
    assert str(ours) in capsys.readouterr().out


def test_wrong_calls_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="steeps: expected a setting of TrainConfig"):
        dr.train_policy("InvertedPendulum-v5", out=tmp_path / "run", steeps=100)
    with pytest.raises(InputError, match="env: expected an environment or the name of one"):
        dr.train_policy()
    with pytest.raises(InputError, match="leave out `out` and `init`"):
        dr.train_policy(resume=tmp_path, out=tmp_path / "run")
    for name in ("out", "init", "resume"):
        with pytest.raises(InputError, match=f"^{name}: expected a path or None, got an empty"):
            dr.train_policy("InvertedPendulum-v5", **{name: ""})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^callback: expected a function of an evaluation, got 5"):
        dr.train_policy("InvertedPendulum-v5", out=tmp_path / "run", callback=5)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"^Pendulum: expected an id with its version: Pendulum-v1"
    ):
        dr.train_policy("Pendulum", out=tmp_path / "run")
    with pytest.raises(InputError, match="episodes: expected a whole number of 1"):
        dr.evaluate_policy(SHIPPED_CARTPOLE, episodes=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_trained_policy_is_exported_from_a_script(
    run: tuple[Path, list[EvaluationEvent]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = dr.export_policy(run[0] / "ckpt.pt", tmp_path / "policy.onnx")
    assert capsys.readouterr().out == ""
    exported = dr.load_policy(file, noise="zero")
    original = dr.load_policy(run[0] / "ckpt.pt", noise="zero")
    observation = [0.1, -0.05, 0.5, 1.0]
    assert exported.act(observation) == pytest.approx(original.act(observation), abs=1e-5)
