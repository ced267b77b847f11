"""What the actuators of a model do to a joint: gains of servos, largest effort of any actuator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np

from dime_robot.sim.model.actuators import transmission


class Servo(NamedTuple):
    """What the actuators of a joint amount to, at the joint."""

    stiffness: float  # 0: none [N m/rad or N/m]
    damping: float  # [N m s/rad or N s/m]
    effort: float  # largest; infinite: the model does not say [N m or N]
    odd: str  # why the gains are not those of a servo; empty: they are


def joint_servo(model: mujoco.MjModel, joint: int, own: Sequence[int], other: int | None) -> Servo:
    """Add up the actuators of a joint.

    Args:
        model: the model.
        joint: its number.
        own: actuators that move only this joint.
        other: another actuator that moves it, used if there are none of its own; None: none.
    """
    stiffness, damping, effort, odd = 0.0, 0.0, 0.0, ""
    for actuator in own:
        gear = float(model.actuator_gear[actuator, 0])
        effort += _largest_force(model, actuator) * abs(gear)
        bias = mujoco.mjtBias(int(model.actuator_biastype[actuator]))
        gain = mujoco.mjtGain(int(model.actuator_gaintype[actuator]))
        if bias == mujoco.mjtBias.mjBIAS_AFFINE:
            stiffness -= float(model.actuator_biasprm[actuator, 1]) * gear**2
            damping -= float(model.actuator_biasprm[actuator, 2]) * gear**2
        elif bias != mujoco.mjtBias.mjBIAS_NONE or gain != mujoco.mjtGain.mjGAIN_FIXED:
            odd = f"its actuator is of kind {gain.name.removeprefix('mjGAIN_').lower()}"
    if other is not None and not own:
        stiffness, damping, effort = _on_tendon(model, joint, other)
    if model.jnt_actfrclimited[joint]:
        effort = min(effort or math.inf, *map(abs, model.jnt_actfrcrange[joint].tolist()))
    return Servo(stiffness, damping, effort or math.inf, odd)


def _largest_force(model: mujoco.MjModel, actuator: int) -> float:
    """Return the largest force of an actuator, before its gear; infinite: it is not said."""
    found = math.inf
    if model.actuator_forcelimited[actuator]:
        found = min(map(abs, model.actuator_forcerange[actuator].tolist()))
    control = int(model.actuator_ctrladr[actuator])
    plain = model.actuator_biastype[actuator] == mujoco.mjtBias.mjBIAS_NONE
    fixed = model.actuator_gaintype[actuator] == mujoco.mjtGain.mjGAIN_FIXED
    if plain and fixed and model.actuator_ctrllimited[control]:
        largest = min(map(abs, model.actuator_ctrlrange[control].tolist()))
        found = min(found, largest * abs(float(model.actuator_gainprm[actuator, 0])))
    return found


def _on_tendon(model: mujoco.MjModel, joint: int, actuator: int) -> tuple[float, float, float]:
    """Return what a servo on a fixed tendon does to one of its joints, all moving together."""
    if transmission(model, actuator) != "tendon":
        return 0.0, 0.0, 0.0
    tendon = int(model.actuator_trnid[actuator, 0])
    start, count = int(model.tendon_adr[tendon]), int(model.tendon_num[tendon])
    wraps = range(start, start + count)
    if any(model.wrap_type[wrap] != mujoco.mjtWrap.mjWRAP_JOINT for wrap in wraps):
        return 0.0, 0.0, 0.0
    arms = {int(model.wrap_objid[wrap]): abs(float(model.wrap_prm[wrap])) for wrap in wraps}
    gear = float(model.actuator_gear[actuator, 0])
    factor = arms[joint] * sum(arms.values()) * gear**2
    affine = model.actuator_biastype[actuator] == mujoco.mjtBias.mjBIAS_AFFINE
    bias = model.actuator_biasprm[actuator] if affine else np.zeros(3)
    largest = _largest_force(model, actuator) * abs(gear) * arms[joint]
    effort = largest if math.isfinite(largest) else 0.0
    return -float(bias[1]) * factor, -float(bias[2]) * factor, effort
