"""RandomDraw: one random term, the places it goes to, and its last draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.sim.config.randomization import KINDS, RandomTerm


@dataclass
class RandomDraw:
    """A term, where it goes, and its last draw."""

    term: RandomTerm
    names: Sequence[str]  # of `values`, for the table
    rows: npt.NDArray[np.intp]  # of the quantity; of noise: numbers of the observation
    shape: tuple[int, ...]  # of a draw; its first axis is 1 where all rows share it
    values: FloatArray | None = None  # [term.unit]; None: no draw yet
    heading: float = 0.0  # of a push, or of the axis that gravity or an imu is turned about [rad]
    due: float = 0.0  # of an interval term: when to draw [s since reset]

    def draw(self, rng: np.random.Generator) -> FloatArray:
        """Draw anew: shape `shape`."""
        first, second = self.term.range
        match self.term.distribution:
            case "uniform":
                values = rng.uniform(first, second, self.shape)
            case "log_uniform":
                values = np.exp(rng.uniform(math.log(first), math.log(second), self.shape))
            case "normal":
                values = np.clip(rng.normal(first, second, self.shape), *self.term.bounds)
        if KINDS[self.term.kind].target == "none":
            self.heading = rng.uniform(0.0, 2 * math.pi)
        self.values = values
        return values

    def wait(self, rng: np.random.Generator) -> None:
        """Draw when the next draw is due."""
        assert self.term.interval is not None
        self.due += rng.uniform(*self.term.interval)

    def applied(self, quantity: FloatArray, values: FloatArray) -> FloatArray:
        """The quantity with these draws of this term in it.

        Args:
            quantity: nominal, shape (n,).
            values: drawn, shape (k,).
        """
        if self.term.kind == "gravity_direction":
            return _turned(quantity, math.radians(values[0]), self.heading)
        if self.term.kind == "imu_mounting":
            return _mounted(quantity, math.radians(values[0]), self.heading)
        match self.term.operation:
            case "set":
                quantity[self.rows] = values
            case "add":
                quantity[self.rows] += values
            case "scale":
                quantity[self.rows] *= values
        return quantity


def _turned(vector: FloatArray, angle: float, heading: float) -> FloatArray:
    """Rodrigues' rotation about a horizontal axis; angles [rad], vector of shape (3,)."""
    axis = np.array([math.cos(heading), math.sin(heading), 0.0])
    along = axis * (axis @ vector)
    turned: FloatArray = (
        along + (vector - along) * math.cos(angle) + np.cross(axis, vector) * math.sin(angle)
    )
    return turned


def _mounted(quaternion: FloatArray, angle: float, heading: float) -> FloatArray:
    """A mounting turned further about a horizontal axis; angles [rad], w x y z of shape (4,)."""
    half = math.sin(angle / 2)
    turn = np.array([math.cos(angle / 2), half * math.cos(heading), half * math.sin(heading), 0.0])
    mounted = np.zeros(4)
    mujoco.mju_mulQuat(mounted, quaternion, turn)
    return mounted


class Noise:
    """The noise of one observation term: a reading in its history keeps the noise it came with."""

    def __init__(
        self, random_draw: RandomDraw, width: int, size: int, fills_with_zero: bool
    ) -> None:
        self.random_draw, self._width, self._zero = random_draw, width, fills_with_zero
        self._stacked = np.zeros(size)
        self.first = True  # of an episode

    def add(self, observation: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
        """Add the noise of this step in place.

        Args:
            observation: changed in place, shape (n_obs,).
            rng: generator of the draws.
        """
        fresh, stacked = self.random_draw.draw(rng), self._stacked
        if self.first:
            stacked.reshape(-1, self._width)[:] = 0.0 if self._zero else fresh
        stacked[: -self._width] = stacked[self._width :].copy()
        stacked[-self._width :] = fresh
        self.first = False
        observation[self.random_draw.rows] += stacked
