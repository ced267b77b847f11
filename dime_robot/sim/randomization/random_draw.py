"""RandomDraw: one random term, its targets, and its last draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.policy_spec import Float32Array, FloatArray
from dime_robot.sim.config.randomization import KINDS, RandomTerm


@dataclass
class RandomDraw:
    """A term, its targets, and its last draw."""

    term: RandomTerm
    names: Sequence[str]  # of the single values, for `Randomizer.drawn`
    rows: npt.NDArray[np.intp]  # of the quantity; of noise: entries of the observation
    shape: tuple[int, ...]  # of a draw; its first axis is 1 if all rows share it
    values: FloatArray | None = None  # last draw [term.unit]; None: none yet
    heading: float = 0.0  # of a push, or of the rotation axis of gravity or an imu [rad]
    due: float = 0.0  # of an interval term: time of the next draw [s since reset]

    def draw(self, rng: np.random.Generator) -> FloatArray:
        """Draw new values, shape `shape`."""
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

    def schedule(self, rng: np.random.Generator) -> None:
        """Set the time of the next draw."""
        assert self.term.interval is not None
        self.due += rng.uniform(*self.term.interval)

    def apply(self, quantity: FloatArray, values: FloatArray) -> FloatArray:
        """Set, add or multiply drawn values; may change `quantity` itself.

        Args:
            quantity: the model's or the state's values, shape (n, ...), in the term's unit.
            values: what was drawn, shape (n_rows,) or as `self.shape`, in the term's unit.

        Returns:
            The quantity with the values applied.
        """
        if self.term.kind == "gravity_direction":
            return _rotated(quantity, math.radians(values[0]), self.heading)
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


def _rotated(vector: FloatArray, angle: float, heading: float) -> FloatArray:
    """Rotate a vector, shape (3,), about a horizontal axis (Rodrigues); angles [rad]."""
    axis = np.array([math.cos(heading), math.sin(heading), 0.0])
    along = axis * (axis @ vector)
    rotated: FloatArray = (
        along + (vector - along) * math.cos(angle) + np.cross(axis, vector) * math.sin(angle)
    )
    return rotated


def _mounted(quaternion: FloatArray, angle: float, heading: float) -> FloatArray:
    """Rotate a mounting, w x y z, shape (4,), about a horizontal axis; angles [rad]."""
    half = math.sin(angle / 2)
    turn = np.array([math.cos(angle / 2), half * math.cos(heading), half * math.sin(heading), 0.0])
    mounted = np.zeros(4)
    mujoco.mju_mulQuat(mounted, quaternion, turn)
    return mounted


class Noise:
    """The noise of one observation term; readings in its history keep their noise."""

    def __init__(
        self, random_draw: RandomDraw, width: int, size: int, fills_with_zero: bool
    ) -> None:
        self.random_draw, self._width, self._zero = random_draw, width, fills_with_zero
        rows = random_draw.rows.tolist()
        self._place = slice(rows[0], rows[-1] + 1)  # of the observation
        self._stacked = np.zeros(size)
        self.first = True  # whether the next reading is the first of an episode

    def add(self, observation: Float32Array, rng: np.random.Generator, share: float = 1.0) -> None:
        """Add the noise of this step to an observation, in place.

        Args:
            observation: changed in place, shape (n_obs,).
            rng: generator of the draws.
            share: factor on the noise [1].
        """
        fresh, stacked, width = self.random_draw.draw(rng), self._stacked, self._width
        if share != 1.0:
            fresh = share * fresh
        if len(stacked) > width:
            if self.first:
                stacked.reshape(-1, width)[:] = 0.0 if self._zero else fresh
            stacked[:-width] = stacked[width:].copy()
            stacked[-width:] = fresh
            fresh = stacked
        self.first = False
        observation[self._place] += fresh
