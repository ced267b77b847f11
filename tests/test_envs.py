"""make_env: one form for Gymnasium, dm_control and the robot tasks."""

from __future__ import annotations

import importlib.util
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from dime_robot.envs import DmControlEnv, make_env, spec_of
from dime_robot.runtime.io.errors import InputError


@pytest.fixture(autouse=True)
def skip_dm_control(request: pytest.FixtureRequest) -> None:
    """dm_control cannot be installed everywhere; where it can, nothing is skipped."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    wanted = str(name).startswith("dm_control/") or "dm_control" in request.node.name
    if wanted and importlib.util.find_spec("dm_control") is None:
        pytest.skip("dm_control is not installed")


@pytest.mark.parametrize(
    ("name", "n_obs", "n_act", "rate"),
    [
        ("Pendulum-v1", 3, 1, 20),
        ("Hopper-v5", 11, 3, 125),
        ("sim:cartpole", 5, 1, 50),
        ("dm_control/pendulum-swingup-v0", 3, 1, 50),
        ("dm_control/cheetah-run-v0", 17, 6, 100),
    ],
)
def test_every_source_gives_the_same_form(name: str, n_obs: int, n_act: int, rate: float) -> None:
    env = make_env(name)
    spec = spec_of(env, name)
    assert (spec.n_obs, spec.n_act, spec.rate) == (n_obs, n_act, pytest.approx(rate))
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (n_act,), np.float32)
    obs, _ = env.reset(seed=0)
    assert obs.dtype == np.float32
    assert obs.shape == (n_obs,)
    obs, reward, terminated, truncated, _ = env.step(np.ones(n_act, np.float32))
    assert obs.dtype == np.float32
    assert np.isfinite(float(reward))
    assert not (terminated or truncated)
    env.close()


def test_actions_are_rescaled_to_the_environments_bounds() -> None:
    env = make_env("Pendulum-v1")
    env.reset(seed=0)
    env.step(np.ones(1, np.float32))
    assert env.unwrapped.last_u == pytest.approx(2.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["Pendulum-v1", "sim:cartpole", "dm_control/cheetah-run-v0"])
def test_time_limit_is_a_truncation(name: str) -> None:
    env = make_env(name)
    env.reset(seed=0)
    for step in range(1, 1001):
        _, _, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape, np.float32))
        assert not terminated
        if truncated:
            break
    assert step == {"Pendulum-v1": 200, "sim:cartpole": 500}.get(name, 1000)


def test_falling_over_is_a_termination() -> None:
    env = make_env("InvertedPendulum-v5")
    env.reset(seed=0)
    for _ in range(200):
        _, _, terminated, truncated, _ = env.step(np.ones(1, np.float32))
        if terminated:
            break
    assert terminated
    assert not truncated


def test_dm_control_keys_are_concatenated_in_sorted_order() -> None:
    from dm_control import suite

    ours = DmControlEnv("dog", "run")
    reference = suite.load("dog", "run", task_kwargs={"random": 3})
    got, _ = ours.reset(seed=3)
    step = reference.reset()
    parts = [np.ravel(step.observation[key]) for key in sorted(step.observation)]
    np.testing.assert_allclose(got, np.concatenate(parts).astype(np.float32))
    assert got.shape == (223,)
    assert ours.action_space.shape == (38,)


@pytest.mark.parametrize("name", ["Humanoid-v5", "dm_control/walker-run-v0", "sim:cartpole"])
def test_seeded_reset_repeats_an_episode(name: str) -> None:
    env = make_env(name)
    env.reset(seed=1)
    for _ in range(30):  # leave some state behind
        env.step(np.ones(env.action_space.shape, np.float32))
    ends = []
    for _ in range(2):
        env.reset(seed=5)
        rng = np.random.default_rng(0)
        for _ in range(20):
            action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
            obs = env.step(action)[0]
        ends.append(obs)
    np.testing.assert_array_equal(*ends)


def test_dm_control_passes_the_env_checker() -> None:
    with pytest.warns(UserWarning, match="infinity"):
        check_env(DmControlEnv("cheetah", "run"), skip_render_check=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Hoper-v5", "Hopper"),
        ("CartPole-v1", "continuous action"),
        ("FrozenLake-v1", "continuous action"),
        ("dm_control/dog-fly-v0", "expected a task out of"),
        ("dm_control/unicorn-run-v0", "expected a domain out of"),
        ("dm_control/dog", "DOMAIN-TASK-v0"),
        ("sim:submarine", "sim:cartpole"),
    ],
)
def test_unusable_names_are_one_sentence(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make_env(name)
    assert "\n" not in str(error.value)


def test_missing_dm_control_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(InputError, match=r"pip install -e '.\[dmc\]'"):
        make_env("dm_control/dog-run-v0")


def test_a_missing_module_of_an_id_is_named() -> None:
    with pytest.raises(InputError, match="nosuchmodule"):
        make_env("nosuchmodule:Bar-v0")
