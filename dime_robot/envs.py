"""One `make_env` for Gymnasium ids, dm_control tasks and this project's robot tasks.

Whatever the source, an environment leaves here with flat float32 observations, float32 actions in
[-1, 1], its time limit as truncation, and a PolicySpec that describes it.
"""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.wrappers import (
    FlattenObservation,
    RescaleAction,
    TimeLimit,
    TransformObservation,
)

from dime_robot.runtime.errors import InputError
from dime_robot.runtime.spec import PolicySpec

Env = gymnasium.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]

DEFAULT_RATE = 50.0  # [Hz], where an environment does not say how fast it is controlled


class DmControlEnv(gymnasium.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """A task of the DeepMind Control Suite: observation entries concatenated in sorted key order.

    Termination is a last step with discount 0; a last step with discount 1 is the time limit.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, domain: str, task: str, render_mode: str | None = None) -> None:
        with warnings.catch_warnings():  # it looks for a display even where none is needed
            warnings.filterwarnings("ignore", message=".*DISPLAY")
            from dm_control import suite

        if (domain, task) not in suite.ALL_TASKS:
            tasks = sorted(t for d, t in suite.ALL_TASKS if d == domain)
            known = tasks or sorted({d for d, _ in suite.ALL_TASKS})
            raise InputError(
                f"dm_control/{domain}-{task}-v0: expected a {'task' if tasks else 'domain'} out of"
                f" {', '.join(known)}"
            )
        self._env = suite.load(domain, task)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1 / self._env.control_timestep())}
        size = sum(int(np.prod(s.shape)) for s in self._env.observation_spec().values())
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        action = self._env.action_spec()
        self.action_space = spaces.Box(
            action.minimum.astype(np.float32), action.maximum.astype(np.float32)
        )

    def _flat(self, observation: dict[str, Any]) -> npt.NDArray[np.float32]:
        parts = [np.ravel(observation[key]) for key in sorted(observation)]
        return np.concatenate(parts).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Start an episode; a seed replaces the task's random state."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.task._random = np.random.RandomState(seed)
        return self._flat(self._env.reset().observation), {}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One control step."""
        step = self._env.step(action)
        terminated = bool(step.last() and step.discount == 0)
        reward = float(step.reward or 0.0)
        return self._flat(step.observation), reward, terminated, step.last() and not terminated, {}

    def render(self) -> npt.NDArray[np.uint8] | None:
        """The current frame, shape (360, 480, 3)."""
        if self.render_mode != "rgb_array":
            return None
        frame: npt.NDArray[np.uint8] = self._env.physics.render(360, 480, camera_id=0)
        return frame


def make_env(name: str, render_mode: str | None = None) -> Env:
    """Build an environment from its name; see the module's docstring for the form it has.

    Raises:
        InputError: unknown name, missing package, or spaces a continuous policy cannot use.
    """
    if name.startswith("sim:"):
        from dime_robot.sim.env import RobotEnv

        robot = RobotEnv(name.removeprefix("sim:"), render_mode)
        return TimeLimit(robot, robot.config.episode_steps)
    env = (
        _dm_control(name, render_mode)
        if name.startswith("dm_control/")
        else _gymnasium(name, render_mode)
    )
    if isinstance(env.observation_space, (spaces.Dict, spaces.Tuple)) or (
        env.observation_space.shape and len(env.observation_space.shape) > 1
    ):
        env = FlattenObservation(env)
    actions = env.action_space
    if not isinstance(actions, spaces.Box) or len(actions.shape) != 1:
        raise InputError(f"{name}: expected a continuous action vector (Box), got {actions}")
    if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
        raise InputError(f"{name}: expected actions with finite bounds, got {actions}")
    if not isinstance(env.observation_space, spaces.Box):
        raise InputError(f"{name}: expected a vector of observations, got {env.observation_space}")
    plain = spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
    single = TransformObservation(env, lambda obs: obs.astype(np.float32), plain)
    return RescaleAction(single, np.float32(-1.0), np.float32(1.0))


def _dm_control(name: str, render_mode: str | None) -> gymnasium.Env[Any, Any]:
    domain, _, task = name.removeprefix("dm_control/").removesuffix("-v0").partition("-")
    if not name.endswith("-v0") or not task:
        raise InputError(f"{name}: expected dm_control/DOMAIN-TASK-v0, e.g. dm_control/dog-run-v0")
    try:
        return DmControlEnv(domain, task, render_mode)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{name}: needs dm_control ({error.name} is missing): pip install -e '.[dmc]' in the"
            " clone (Python 3.10 to 3.12)"
        ) from None


def _gymnasium(name: str, render_mode: str | None) -> gymnasium.Env[Any, Any]:
    try:
        return gymnasium.make(name, render_mode=render_mode, disable_env_checker=True)
    except gymnasium.error.Error as error:
        raise InputError(f"{name}: {' '.join(str(error).split())}") from None
    except ModuleNotFoundError as error:
        what = f"the package {error.name}" if error.name else str(error)
        raise InputError(f"{name}: cannot be made here, missing: {what}") from None


def sizes_of(env: Env) -> tuple[int, int]:
    """Lengths (n_obs, n_act) of its vectors."""
    assert env.observation_space.shape is not None
    assert env.action_space.shape is not None
    return env.observation_space.shape[0], env.action_space.shape[0]


def spec_of(env: Env, name: str) -> PolicySpec:
    """The contract of an environment: its own, or a flat one built from its spaces."""
    own = getattr(env.unwrapped, "policy_spec", None)
    if isinstance(own, PolicySpec):
        return own
    n_obs, n_act = sizes_of(env)
    rate = 1 / env.unwrapped.dt if hasattr(env.unwrapped, "dt") else env.metadata.get("render_fps")
    return PolicySpec.flat(name, n_obs, n_act, float(rate or DEFAULT_RATE))
