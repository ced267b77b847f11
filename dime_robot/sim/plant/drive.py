"""PositionDrive, VelocityDrive: models of the robot's joint controllers and motors.

`explicit_step` and `implicit_step` are the two ways of integrating it (`sim.drive`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mujoco
import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.sim.config.robot_task import SimConfig

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_ZERO, _ONE = np.array(0.0), np.array(1.0)  # Python's numbers are converted in every call


class PositionDrive:
    """effort = strength * clip(stiffness * (target - q) - damping * v), up to the motor's limits.

    Near its largest speed a motor has less effort in its direction of motion, and none at the
    limit.

    Args:
        stiffness: gain on the position error, shape (n,) [N m/rad or N/m].
        damping: gain on the velocity, shape (n,) [N m s/rad or N s/m].
        limit: largest effort, of both parts together, shape (n,) [N m or N].
        full_torque_speed: share of the speed limit up to which the full effort is available.
        max_speed: shape (n,) [rad/s or m/s]; only needed with `full_torque_speed`.
    """

    def __init__(
        self,
        stiffness: Sequence[float],
        damping: Sequence[float],
        limit: Sequence[float],
        full_torque_speed: float | None = None,
        max_speed: Sequence[float] = (),
    ) -> None:
        # shape (n,) each; randomization writes into these, so that nothing is derived from them
        self.stiffness = np.array(stiffness, dtype=float)
        self.damping = np.array(damping, dtype=float)
        self.strength = np.ones(len(self.stiffness))  # ratio of actual to computed effort
        self._limit = np.array(limit, dtype=float)
        self._lowest = -self._limit
        self._fades = full_torque_speed is not None
        if full_torque_speed is not None:
            self._max_speed = np.array(max_speed, dtype=float)
            self._fade = 1 / ((1 - full_torque_speed) * self._max_speed)
            # below this square of all speeds together every motor has its full effort: `_share`
            # never rises with the speed, so that it is 1 at all lower ones too
            full = 0.999 * full_torque_speed * float(self._max_speed.min(initial=np.inf))
            is_whole = (self._share(np.full(len(self._limit), 1.0005 * full)) == 1.0).all()
            self._full_squared = full**2 if is_whole else -1.0  # [rad^2/s^2 or m^2/s^2]
        self.reset()

    @classmethod
    def of_policy(
        cls, spec: PolicySpec, full_torque_speed: float | None, speed_limits: Mapping[str, float]
    ) -> PositionDrive:
        """Make the drive of a contract's position actions, one joint per action.

        Args:
            spec: gains and effort limits.
            full_torque_speed: share of the speed limit up to which the whole effort is there [1].
            speed_limits: joint -> largest speed [rad/s or m/s].
        """
        joints = [spec.joint(name) for name in spec.action_joints]
        return cls(
            [joint.stiffness or 0.0 for joint in joints],
            [joint.damping or 0.0 for joint in joints],
            [joint.effort_limit or np.inf for joint in joints],
            full_torque_speed,
            [] if full_torque_speed is None else [speed_limits[joint.name] for joint in joints],
        )

    @classmethod
    def of_held(cls, names: Sequence[str], sim: SimConfig) -> PositionDrive:
        """Make the drive of joints that the policy does not move.

        Args:
            names: keys of `sim.hold`, in the order of the drive.
            sim: their gains and limits.
        """
        gains = [sim.hold[name] for name in names]
        return cls(
            [gain.stiffness for gain in gains],
            [gain.damping for gain in gains],
            [gain.effort_limit or np.inf for gain in gains],
        )

    def reset(self) -> None:
        """Reset the recorded efforts."""
        self.peak = np.zeros(len(self._limit))  # largest |effort| since `reset` [N m or N]
        self.squares = 0.0  # sum of the squared efforts since `take_squares` [N^2 m^2]
        self.applied: FloatArray = np.zeros(len(self._limit))  # the last effort [N m or N]

    def take_squares(self) -> float:
        """Return the sum over joints and steps of the squared effort since the last call."""
        squares, self.squares = self.squares, 0.0
        return squares

    def bounds(self, velocity: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return lower and upper bound of the effort at strength 1, shapes (n,) [N m or N].

        Args:
            velocity: shape (n,) [rad/s or m/s].
        """
        if not self._fades or velocity.dot(velocity) <= self._full_squared:
            return self._lowest, self._limit
        return self._lowest * self._share(-velocity), self._limit * self._share(velocity)

    def _share(self, velocity: FloatArray) -> FloatArray:
        """Return the share of the effort in the direction of positive velocities, shape (n,)."""
        share = self._max_speed - velocity
        share *= self._fade
        np.maximum(share, _ZERO, out=share)
        np.minimum(share, _ONE, out=share)
        return share

    def forward(self, target: FloatArray, position: FloatArray) -> FloatArray:
        """Return the part of the effort that does not depend on the velocity [N m or N].

        Args:
            target: shape (n,) [rad or m].
            position: shape (n,) [rad or m].
        """
        part: FloatArray = target - position
        part *= self.stiffness
        return part

    def effort(self, target: FloatArray, position: FloatArray, velocity: FloatArray) -> FloatArray:
        """Return the effort at the joints [N m or N] from the state before a step.

        Args:
            target: shape (n,) [rad or m].
            position: shape (n,) [rad or m].
            velocity: shape (n,) [rad/s or m/s].
        """
        low, high = self.bounds(velocity)
        effort = self.forward(target, position)
        effort -= self.damping * velocity
        np.minimum(effort, high, out=effort)
        np.maximum(effort, low, out=effort)
        effort *= self.strength
        self.record(effort)
        return effort

    def record(self, applied: FloatArray) -> None:
        """Record the effort of one simulation step, shape (n,) [N m or N].

        Args:
            applied: shape (n,) [N m or N].
        """
        self.applied = applied
        self.peak = np.maximum(self.peak, np.abs(applied))
        self.squares += float(applied.dot(applied))


class VelocityDrive(PositionDrive):
    """effort = strength * clip(damping * (target - v)), up to the motor's limits: no stiffness.

    Targets are velocities, in [rad/s or m/s].
    """

    @classmethod
    def of_policy(
        cls, spec: PolicySpec, full_torque_speed: float | None, speed_limits: Mapping[str, float]
    ) -> VelocityDrive:
        """Make the drive of a contract's velocity actions, one joint per action.

        Args:
            spec: gains and effort limits.
            full_torque_speed: share of the speed limit up to which the whole effort is there [1].
            speed_limits: joint -> largest speed [rad/s or m/s].
        """
        drive = super().of_policy(spec, full_torque_speed, speed_limits)
        assert isinstance(drive, VelocityDrive)
        drive.stiffness[:] = 0.0  # a contract's stiffness is for positions
        return drive

    def forward(self, target: FloatArray, position: FloatArray) -> FloatArray:
        """Return the part of the effort that does not depend on the velocity [N m or N].

        Args:
            target: shape (n,) [rad/s or m/s].
            position: shape (n,) [rad or m].
        """
        part: FloatArray = self.damping * target
        return part


class Driven(NamedTuple):
    """A drive, its targets, and its joints in a model."""

    drive: PositionDrive
    target: FloatArray  # shape (n,) [rad or m]; of a VelocityDrive [rad/s or m/s]
    qpos: npt.NDArray[np.intp]  # shape (n,), of data.qpos
    dofs: npt.NDArray[np.intp]  # shape (n,), of data.qvel
    # indices of another type, as MuJoCo's int32, would take five times as long in every step


def explicit_step(model: mujoco.MjModel, data: mujoco.MjData, driven: Sequence[Driven]) -> None:
    """Simulate one step with efforts from the state at its beginning."""
    position, velocity, applied = data.qpos, data.qvel, data.qfrc_applied
    for drive, target, qpos, dofs in driven:
        applied[dofs] = drive.effort(target, position[qpos], velocity[dofs])
    mujoco.mj_step(model, data)


def implicit_step(model: mujoco.MjModel, data: mujoco.MjData, driven: Sequence[Driven]) -> None:
    """Simulate one step in which the damping acts on the velocity at its end.

    The stiffness acts on the position at the beginning, as does the target of a VelocityDrive. With
    a step h and a gain D on the velocity,

        M (v+ - v) / h = stiffness part - D v+    is    (M + h D) (v+ - v) / h = explicit effort

    so h D is added to the joint's inertia for the step. Without contacts this equals MuJoCo's
    position servo with the integrator implicitfast. That integrator, however, computes contact
    forces with M alone and applies the damping afterwards: a robot standing on strongly damped legs
    shakes. Here contact forces are computed with M + h D too.

    The limits apply to stiffness and damping together, and to the effort at the end of the step: if
    a joint would exceed its limit, the step is repeated with that joint's effort fixed at the
    limit. (MuJoCo limits the effort at the beginning, so a strongly damped joint with a low limit
    would jump between its limits.)

    Args:
        model: its `dof_armature` is changed and restored.
        data: advanced by one step.
        driven: all drives.
    """
    dofs = driven[0].dofs
    spring, damping, low, high = _parts(data, driven[0])
    if len(driven) > 1:
        dofs = np.concatenate([each.dofs for each in driven])
        spring, damping, low, high = (
            np.concatenate(parts)
            for parts in zip(*(_parts(data, each) for each in driven), strict=True)
        )
    timestep, armature = model.opt.timestep, model.dof_armature[dofs]
    velocity = data.qvel[dofs]
    at_limit = np.zeros(len(dofs), dtype=bool)
    before = np.empty(mujoco.mj_stateSize(model, STATE))
    mujoco.mj_getState(model, data, before, STATE)
    while True:  # ends, since every iteration fixes another joint
        data.qfrc_applied[dofs] = spring - damping * velocity
        model.dof_armature[dofs] = armature + timestep * damping
        mujoco.mj_step(model, data)
        effort = spring - damping * data.qvel[dofs]
        over = ~at_limit & ((effort > high) | (effort < low))
        if not over.any():
            break
        mujoco.mj_setState(model, data, before, STATE)
        spring = np.where(over, np.clip(effort, low, high), spring)
        damping = np.where(over, 0.0, damping)
        at_limit |= over
    model.dof_armature[dofs] = armature
    start = 0
    for each in driven:
        end = start + len(each.dofs)
        each.drive.record(effort[start:end])
        start = end


def _parts(
    data: mujoco.MjData, driven: Driven
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return effort at velocity 0, damping, lower and upper bound of the effort, shapes (n,)."""
    drive, strength = driven.drive, driven.drive.strength
    low, high = drive.bounds(data.qvel[driven.dofs])
    return (
        strength * drive.forward(driven.target, data.qpos[driven.qpos]),
        strength * drive.damping,
        strength * low,
        strength * high,
    )
