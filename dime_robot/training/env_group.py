"""EnvGroup: environments that are stepped one after another, in the learner's process or another.

It knows neither seeds nor returns: `vector_env.py` decides when an episode begins and counts it.
Nothing here imports torch, so that a process that only steps environments stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from mmap import mmap
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from dime_robot.envs import Env
from dime_robot.training.episode import RunningEpisode

FloatArray = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]
Result = TypeVar("Result")


class Sizes(NamedTuple):
    """Lengths of the arrays of a step."""

    num_envs: int
    n_obs: int
    n_act: int


class StepArrays(NamedTuple):
    """The numbers of a step; row i is that of environment i."""

    rewards: Numbers  # (count,)
    actions: FloatArray  # (count, n_act), in [-1, 1]
    obs: FloatArray  # (count, n_obs), before any reset
    active: Truths  # (count,), whether it is stepped
    terminations: Truths  # (count,)
    truncations: Truths  # (count,)

    @classmethod
    def shapes(cls, sizes: Sizes) -> list[tuple[type[np.generic], tuple[int, ...]]]:
        """Return type and shape of each array; larger types come first, so all are aligned."""
        count, n_obs, n_act = sizes
        flags: tuple[type[np.generic], tuple[int, ...]] = (np.bool_, (count,))
        numbers = [(np.float64, (count,)), (np.float32, (count, n_act))]
        return [*numbers, (np.float32, (count, n_obs)), flags, flags, flags]

    @classmethod
    def bytes_for(cls, sizes: Sizes) -> int:
        """Return how much memory they need [bytes]."""
        return sum(np.dtype(kind).itemsize * int(np.prod(s)) for kind, s in cls.shapes(sizes))

    @classmethod
    def in_memory(cls, memory: mmap | bytearray, sizes: Sizes) -> StepArrays:
        """Return the arrays that are views of this memory, in every process that maps it.

        Args:
            memory: of at least `bytes_for(sizes)`.
            sizes: of the arrays.
        """
        arrays: list[Any] = []
        offset = 0
        for kind, shape in cls.shapes(sizes):
            arrays.append(np.ndarray(shape, kind, buffer=memory, offset=offset))
            offset += arrays[-1].nbytes
        return cls(*arrays)


class Begin(NamedTuple):
    """An episode to begin."""

    environment: int
    seed: int
    level: int | None  # of the curriculum; None: of no level


Infos = Mapping[int, dict[str, Any]]  # by the number of their environment


class Stepper(Protocol):
    """Steps environments, here or elsewhere; a step has two halves, so that work can go between."""

    def query(self, function: Callable[[Env], Result]) -> Result:
        """Return what a function of a module says of the first environment."""

    def attach(self, sizes: Sizes) -> StepArrays:
        """Return the arrays through which the numbers of every step go from now on.

        Args:
            sizes: of the arrays.
        """

    def reset(self, begins: Sequence[Begin]) -> None:
        """Begin episodes; their first observations are then in the arrays."""

    def step_async(self) -> None:
        """Let every active environment begin a step with its action in the arrays."""

    def step_wait(self) -> Infos:
        """Wait until all are stepped; return the infos that episodes need."""

    def close(self) -> None:
        """Close the environments."""


def spaces_of(env: Env) -> tuple[spaces.Space[FloatArray], spaces.Space[FloatArray]]:
    """Return the spaces of an environment's observations and actions."""
    return env.observation_space, env.action_space


class EnvGroup:
    """Environments that are stepped one after another in this process, as a `Stepper`.

    Args:
        make: makes an environment by its number.
        numbers: of the environments.

    Raises:
        InputError: an environment cannot be made.

    Attributes:
        envs: the environments.
    """

    def __init__(self, make: Callable[[int], Env], numbers: range) -> None:
        self.envs: list[Env] = []
        self._numbers = numbers
        self._levels: dict[int, int | None] = {}
        self._arrays: StepArrays
        try:
            for i in numbers:
                self.envs.append(make(i))
        except BaseException:
            self.close()
            raise

    def query(self, function: Callable[[Env], Result]) -> Result:
        """Return what a function says of the first environment."""
        return function(self.envs[0])

    def attach(self, sizes: Sizes, memory: mmap | None = None) -> StepArrays:
        """Return the arrays of every step.

        Args:
            sizes: of the arrays.
            memory: that they share with another process; none: of this process alone.
        """
        own = bytearray(StepArrays.bytes_for(sizes)) if memory is None else memory
        self._arrays = StepArrays.in_memory(own, sizes)
        return self._arrays

    def reset(self, begins: Sequence[Begin]) -> None:
        """Begin episodes."""
        for i, seed, level in begins:
            options = None if level is None else {"level": level}
            self._levels[i] = level
            self._arrays.obs[i] = self._env(i).reset(seed=seed, options=options)[0]

    def step_async(self) -> None:
        """Do nothing: the environments step in `step_wait`."""

    def step_wait(self) -> Infos:
        """Step every active environment."""
        arrays, infos = self._arrays, {}
        for i in self._numbers:
            if not arrays.active[i]:
                continue
            # a copy of its own: an environment may keep the action, and the array is used again
            action = arrays.actions[i].copy()
            obs, reward, terminated, truncated, info = self._env(i).step(action)
            arrays.obs[i], arrays.rewards[i] = obs, reward
            arrays.terminations[i], arrays.truncations[i] = terminated, truncated
            if terminated or truncated or RunningEpisode.needs_info(self._levels[i]):
                infos[i] = info
        return infos

    def _env(self, i: int) -> Env:
        return self.envs[i - self._numbers.start]

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()
