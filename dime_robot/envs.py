"""One `make_env` for Gymnasium ids, dm_control tasks, this project's robot tasks and user code.

Every environment that it returns has flat float32 observations, float32 actions in [-1, 1], its
time limit as truncation, and a PolicySpec that describes it. Its values are plain Python: rewards
are floats, terminated and truncated are bools, and `info` has only the entries that this project
reads (`is_success`, `measures`, `effort_peak`).
"""

from __future__ import annotations

import copy
import functools
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction, TimeLimit

import dime_robot.sim  # noqa: F401  imports MuJoCo, and has to be first
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.errors import InputError, in_one_line
from dime_robot.runtime.policy.env_name import PYTHON
from dime_robot.sim.config.trust import SUFFIXES, typed_env

FloatArray = npt.NDArray[np.float32]
Env = gymnasium.Env[FloatArray, FloatArray]
# a name, a function without arguments that makes an environment, or an environment to copy
EnvLike: TypeAlias = str | gymnasium.Env[Any, Any] | Callable[[], gymnasium.Env[Any, Any]]

DEFAULT_RATE = 50.0  # [Hz], where an environment does not state its control rate
# of an episode of an environment that states no time limit, in evaluations and videos
MAX_EPISODE_STEPS = 10_000
NUMERIC_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class DmControlEnv(gymnasium.Env[FloatArray, FloatArray]):
    """A task of the DeepMind Control Suite: observation entries concatenated in sorted key order.

    Termination is a last step with discount 0; a last step with discount 1 is the time limit.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, domain: str, task: str, render_mode: str | None = None) -> None:
        with warnings.catch_warnings():  # it warns of a missing display even if none is needed
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
        limit = getattr(self._env, "_step_limit", math.inf)
        self.step_limit = round(limit) if math.isfinite(limit) else None
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1 / self._env.control_timestep())}
        size = sum(int(np.prod(s.shape)) for s in self._env.observation_spec().values())
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        action = self._env.action_spec()
        self.action_space = spaces.Box(
            action.minimum.astype(np.float32), action.maximum.astype(np.float32)
        )

    def _flat(self, observation: dict[str, Any]) -> FloatArray:
        parts = [np.ravel(observation[key]) for key in sorted(observation)]
        return np.concatenate(parts).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode; a seed replaces the task's random state."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.task._random = np.random.RandomState(seed)
        return self._flat(self._env.reset().observation), {}

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Simulate one control step.

        Args:
            action: inside the bounds, shape (n_act,).
        """
        step = self._env.step(action)
        terminated = bool(step.last() and step.discount == 0)
        reward = float(step.reward or 0.0)
        return self._flat(step.observation), reward, terminated, step.last() and not terminated, {}

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Return the current frame, shape (360, 480, 3)."""
        if self.render_mode != "rgb_array":
            return None
        frame: npt.NDArray[np.uint8] = self._env.physics.render(360, 480, camera_id=0)
        return frame


class BoundedActions(gymnasium.ActionWrapper[Any, Any, Any]):
    """Actions in the environment's own type and within its bounds; fixed dimensions stay fixed.

    A dimension whose bounds are equal has one possible value. The policy's action still has an
    entry for it, without effect, so that the action vector keeps the environment's length and
    order.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        box = env.action_space
        assert isinstance(box, spaces.Box)
        self._low, self._high, self._type = box.low, box.high, box.dtype
        fixed = box.low == box.high
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        self.action_space = spaces.Box(
            np.where(fixed, low - 1, low), np.where(fixed, high + 1, high), dtype=np.float64
        )

    def action(self, action: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the action within the environment's bounds, in its type.

        Args:
            action: in [-1, 1], shape (n_act,).
        """
        bounded: npt.NDArray[Any] = np.clip(
            np.asarray(action, self._type), self._low, self._high
        ).astype(self._type)
        return bounded


@contextmanager
def _refused_as(what: str) -> Iterator[None]:
    """Convert any exception of an environment to an InputError that begins with these words."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {in_one_line(error)}") from error


class PlainEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Converts everything that an environment returns to plain values; see the module's docstring.

    Args:
        env: with a Box of actions in [-1, 1] and observations of numeric spaces.
        name: of the environment, for messages.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name, self._given = name, env.observation_space
        assert env.action_space.shape is not None
        self._size = spaces.flatdim(self._given)
        self._is_vector = isinstance(self._given, spaces.Box)
        self.observation_space = spaces.Box(-np.inf, np.inf, (self._size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, env.action_space.shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode.

        Raises:
            InputError: the environment failed, or returned something other than numbers.
        """
        with _refused_as(f"{self._name}: reset failed"):
            given = self.env.reset(seed=seed, options=options)
        if not isinstance(given, tuple) or len(given) != 2:
            raise InputError(
                f"{self._name}: reset: expected (observation, info), got {type(given).__name__};"
                " is it written for the old Gym interface?"
            )
        return self._vector(given[0]), self._plain_info(given[1])

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Simulate one control step.

        Args:
            action: in [-1, 1], shape (n_act,).

        Raises:
            InputError: the environment failed, or returned something other than numbers.
        """
        try:  # `_refused_as` in place, since this is called in every step
            obs, reward, terminated, truncated, info = self.env.step(action)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{self._name}: step failed: {in_one_line(error)}") from error
        return (
            self._vector(obs),
            self._number("reward", reward),
            self._truth("terminated", terminated),
            self._truth("truncated", truncated),
            self._plain_info(info),
        )

    def close(self) -> None:
        """Close the environment; a function may return the same environment again from now on."""
        _in_use.pop(id(self.unwrapped), None)
        super().close()

    def _vector(self, given: Any) -> FloatArray:
        """Return a copy, since some environments write every observation into the same array."""
        if (
            self._is_vector
            and type(given) is np.ndarray
            and given.dtype == np.float32
            and given.shape == (self._size,)
        ):
            return given.copy()  # nothing to convert, as in every step of a robot task
        try:
            flat = given if self._is_vector else spaces.flatten(self._given, given)
            with np.errstate(over="ignore"):  # beyond float32: inf, which is refused later
                vector = np.array(flat, dtype=np.float32).reshape(-1)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise InputError(
                f"{self._name}: observation: expected {self._given!s:.80}, got {given!r:.60}"
                f" ({in_one_line(error)})"
            ) from None
        if len(vector) != self._size:
            raise InputError(
                f"{self._name}: observation: expected {self._size} numbers, as its"
                f" observation_space says, got {len(vector)}"
            )
        return vector

    def _number(self, what: str, given: Any) -> float:
        if type(given) is float:
            return given
        number = plain_number(given)
        if number is None:
            raise InputError(f"{self._name}: {what}: expected one number, got {given!r:.60}")
        return number

    def _truth(self, what: str, given: Any) -> bool:
        if type(given) is bool:
            return given
        number = plain_number(given)
        if number is None or math.isnan(number):
            raise InputError(f"{self._name}: {what}: expected true or false, got {given!r:.60}")
        return bool(number)

    def _plain_info(self, info: Any) -> dict[str, Any]:
        if not isinstance(info, (dict, Mapping)):  # None, as an environment may return
            return {}
        plain: dict[str, Any] = {}
        if info.get("is_success") is not None:
            plain["is_success"] = self._truth('info["is_success"]', info["is_success"])
        # another environment's "measures" may be anything: entries that are not numbers are ignored
        metrics = info.get("measures")
        if isinstance(metrics, (dict, Mapping)):
            plain["measures"] = measures = {}
            for name, value in metrics.items():
                number = plain_number(value)
                if isinstance(name, str) and number is not None and math.isfinite(number):
                    measures[name] = number
        peak = plain_number(info.get("effort_peak"))
        if peak is not None and math.isfinite(peak):
            plain["effort_peak"] = peak
        return plain


def plain_number(given: Any) -> float | None:
    """Return a number, a bool or an array with one entry as a float; None: it is none of these."""
    if type(given) is float:
        return given
    if given is None or isinstance(given, str | bytes):
        return None
    try:
        array = np.asarray(given)
    except Exception:  # the conversion of a foreign object can raise anything
        return None
    if array.size != 1 or array.dtype.kind not in "biuf":
        return None
    return float(array.reshape(-1)[0])


class SharedEnvironmentError(InputError):
    """A function returned an environment that is already in use."""


def env_name(env: EnvLike) -> str:
    """Return the name of an environment in settings, files and messages.

    Returns:
        The name itself; for a function, a class or an object python:NAME, which is refused as a
        name by `make_env` and in every file.
    """
    if isinstance(env, str):
        return env
    if isinstance(env, functools.partial):
        return env_name(env.func)
    source = type(env.unwrapped) if isinstance(env, gymnasium.Env) else env
    name = getattr(source, "__name__", type(source).__name__)
    return PYTHON + re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_")[:64]


def make_env(
    env: EnvLike,
    render_mode: str | None = None,
    startup_seed: int = 0,
    own_terms: bool = False,
    privileged: bool = False,
) -> Env:
    """Build an environment; see the module's docstring for its properties.

    An object is never stepped or closed itself: a deep copy is used, so that training, evaluation
    and the caller do not affect each other.

    Args:
        env: a Gymnasium id (MODULE:ID imports MODULE first), dm_control/DOMAIN-TASK-v0,
            sim:NAME, a function without arguments that makes a new environment at each call, or
            an environment that can be copied.
        render_mode: None or rgb_array; the environment of a function has its own.
        startup_seed: for the values that a robot task draws once in the environment's life.
        own_terms: permit code of the user's own in the file of a robot task, sim:FILE, for this
            process; only for a file that you trust.
        privileged: observations of a robot task with what only critics see at their end, which only
            training takes.

    Raises:
        InputError: unknown name, missing package, a constructor that failed, an environment that
            cannot be copied, spaces a continuous policy cannot use, or nothing that only critics
            see.
    """
    name = env_name(env)
    if privileged and not name.startswith("sim:"):
        raise InputError(
            f"--asymmetric-critic: expected a robot task (sim:NAME) whose file has a section"
            f" task.privileged, which names what only the critics see, got {name}"
        )
    if not isinstance(env, str):
        made = _from_python(env, name)
    elif name.startswith("sim:"):
        from dime_robot.sim.robot_env import RobotEnv

        if own_terms:
            typed_env(name)
        robot = RobotEnv(name.removeprefix("sim:"), render_mode, None, startup_seed, privileged)
        return PlainEnv(TimeLimit(robot, robot.config.episode_steps), name)
    elif name.startswith("dm_control/"):
        made = _dm_control(name, render_mode)
    else:
        made = _gymnasium(name, render_mode)
    return _in_plain_form(made, name)


_in_use: WeakValueDictionary[int, gymnasium.Env[Any, Any]] = WeakValueDictionary()  # by their id


def _from_python(env: EnvLike, name: str) -> gymnasium.Env[Any, Any]:
    if isinstance(env, gymnasium.Env):
        with _refused_as(
            f"{name}: expected an environment that copy.deepcopy can copy, as training and"
            " evaluation each need one, or a function that makes it"
        ):
            return copy.deepcopy(env)
    if not callable(env):
        raise InputError(
            "env: expected a name, a gymnasium.Env or a function that makes one, got"
            f" {type(env).__name__}"
        )
    with _refused_as(f"{name}: cannot be made here"):
        made = env()
    if not isinstance(made, gymnasium.Env):
        raise InputError(
            f"{name}: expected a function that returns a gymnasium.Env, got {type(made).__name__}"
        )
    if _in_use.get(id(made.unwrapped)) is made.unwrapped:
        raise SharedEnvironmentError(
            f"{name}: expected a function that makes a new environment at each call, got one that"
            " is in use already, so that an evaluation would disturb the training episode"
        )
    _in_use[id(made.unwrapped)] = made.unwrapped
    return made


def _in_plain_form(env: gymnasium.Env[Any, Any], name: str) -> Env:
    try:
        box = _checked_actions(name, env.action_space)
        _check_observations(name, env.observation_space)
        if (box.low == box.high).any() or box.dtype not in (np.float32, np.float64):
            env = BoundedActions(env)
        assert env.action_space.dtype is not None
        number = env.action_space.dtype.type  # Gymnasium warns of a type other than the bounds'
        return PlainEnv(RescaleAction(env, number(-1.0), number(1.0)), name)
    except BaseException:
        env.close()
        raise


def _checked_actions(name: str, space: spaces.Space[Any]) -> spaces.Box:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise InputError(f"{name}: expected a continuous action vector (Box), got {space}")
    if not np.issubdtype(space.dtype, np.floating):
        raise InputError(
            f"{name}: expected a continuous action vector, got a Box of {space.dtype}: whole"
            " numbers; give it a Box of float32"
        )
    if space.shape[0] == 0:
        raise InputError(f"{name}: expected at least one action, got an empty Box")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise InputError(f"{name}: expected actions with finite bounds, got {space}")
    wrong = np.flatnonzero(space.low > space.high)
    if len(wrong):
        i = int(wrong[0])
        raise InputError(
            f"{name}: expected action bounds with low < high, got low {space.low[i]:g} and high"
            f" {space.high[i]:g} for action {i}"
        )
    if (space.low == space.high).all():
        raise InputError(
            f"{name}: expected at least one action that can change, got bounds with low = high for"
            " all of them"
        )
    return space


def _check_observations(name: str, space: spaces.Space[Any]) -> None:
    """Refuse parts of a space that are not numeric; bounds do not matter."""
    for place, part in _parts(space):
        numeric = isinstance(part, NUMERIC_SPACES)
        if not numeric or (isinstance(part, spaces.Box) and part.dtype.kind not in "biuf"):
            where = f" in {place}" if place else ""
            raise InputError(
                f"{name}: expected a vector of observations, or parts of numbers, got"
                f" {part!s:.80}{where}"
            )
    if spaces.flatdim(space) == 0:  # one part may be empty, if another is not
        raise InputError(f"{name}: expected at least one observation, got {space!s:.80}")


def _parts(space: spaces.Space[Any], place: str = "") -> Iterator[tuple[str, spaces.Space[Any]]]:
    """Yield the spaces that contain no others, each with its path, `a.b.0`."""
    parts: Iterable[tuple[Any, spaces.Space[Any]]]
    if isinstance(space, spaces.Dict):
        parts = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
    else:
        yield place, space
        return
    for key, part in parts:
        yield from _parts(part, f"{place}.{key}" if place else str(key))


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
    if name.startswith(PYTHON):
        raise InputError(
            f"{name}: stands for an environment that a Python program made; expected that function"
            " or object itself, or the id of a registered environment"
        )
    try:
        made = _constructed(name, render_mode)
    except gymnasium.error.NameNotFound as error:
        hint = "" if ":" in name else "; an id of your own needs its module: MODULE:ID"
        if name.endswith(SUFFIXES):
            hint = f"; the file of a robot's task is given with --config {name}"
        text = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{name}: {text}{hint}") from None
    except gymnasium.error.Error as error:
        raise InputError(f"{name}: {' '.join(str(error).split())}") from None
    except ModuleNotFoundError as error:
        what = f"the package {error.name}" if error.name else str(error)
        raise InputError(f"{name}: cannot be made here, missing: {what}") from None
    except Exception as error:  # a constructor can raise anything
        raise InputError(f"{name}: cannot be made here: {in_one_line(error)}") from error
    # Gymnasium adds a missing version, but settings and files know the task by its whole id
    if made.spec is not None and made.spec.id != name.rpartition(":")[2]:
        made.close()
        raise InputError(f"{name}: expected an id with its version: {made.spec.id}")
    return made


def _constructed(name: str, render_mode: str | None) -> gymnasium.Env[Any, Any]:
    try:
        with warnings.catch_warnings():  # a missing version is refused afterwards
            warnings.filterwarnings("ignore", message=".*latest versioned environment")
            return gymnasium.make(name, render_mode=render_mode, disable_env_checker=True)
    except TypeError as error:
        # a constructor need not have the argument if nothing is rendered
        if render_mode is not None or "'render_mode'" not in str(error):
            raise
        return gymnasium.make(name, disable_env_checker=True)


def time_limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """Return the steps after which an episode is truncated; None: the environment has no limit."""
    own = getattr(env.unwrapped, "step_limit", None)
    if isinstance(own, int):
        return own
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            return int(env._max_episode_steps)
        env = env.env
    return None


def sizes_of(env: Env) -> tuple[int, int]:
    """Return the lengths (n_obs, n_act) of an environment's vectors."""
    assert env.observation_space.shape is not None
    assert env.action_space.shape is not None
    return env.observation_space.shape[0], env.action_space.shape[0]


def spec_of(env: Env, name: str) -> PolicySpec:
    """Return the contract of an environment: its own, or a flat one built from its spaces."""
    own = getattr(env.unwrapped, "policy_spec", None)
    if isinstance(own, PolicySpec):
        return own
    n_obs, n_act = sizes_of(env)
    return PolicySpec.flat(name, n_obs, n_act, control_rate(env))


def action_bounds(name: EnvLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the bounds of an environment's actions in its own units, as of `gymnasium.make`.

    Args:
        name: as for `make_env`.

    Returns:
        Lower and upper bound, shape (n_act,) each.

    Raises:
        InputError: as for `make_env`.
    """
    env = make_env(name)
    try:
        inner: gymnasium.Env[Any, Any] = env
        while isinstance(inner, PlainEnv | RescaleAction | BoundedActions):
            inner = inner.env
        box = inner.action_space
        assert isinstance(box, spaces.Box)
        return box.low.astype(np.float32), box.high.astype(np.float32)
    finally:
        env.close()


def control_rate(env: gymnasium.Env[Any, Any]) -> float:
    """Return the control rate [Hz]: from the time step `dt` [s], the frame rate, or 50.

    A value that is not a positive number (a method, 0) is ignored.
    """
    try:
        dt = plain_number(getattr(env.unwrapped, "dt", None))
    except Exception:  # a property that fails
        dt = None
    if dt is not None and math.isfinite(dt) and dt > 0 and math.isfinite(1 / dt):
        return 1 / dt
    rate = plain_number((env.metadata or {}).get("render_fps"))
    return rate if rate is not None and math.isfinite(rate) and rate > 0 else DEFAULT_RATE
