"""The actuators of a model that a policy commands, and the check that they match the contract.

An effort has to reach the joint unchanged: through a plain motor of gear 1 and gain 1, without
dynamics, bias or a narrower bound, and as the joint's only actuator. A speed of a twist needs
MuJoCo's velocity servo. All other actuators are refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.model.loading import joint_name

MOTOR = "a motor of gear 1 and gain 1 without dynamics"
SERVO = "a velocity servo of gear 1"
GROUPS = range(31)  # that MuJoCo can disable
TOLERANCE = 1e-5  # relative, between bounds that count as equal
TRANSMISSIONS = {  # names in MJCF
    mujoco.mjtTrn.mjTRN_JOINT: "joint",
    mujoco.mjtTrn.mjTRN_JOINTINPARENT: "jointinparent",
    mujoco.mjtTrn.mjTRN_SLIDERCRANK: "slider-crank",
    mujoco.mjtTrn.mjTRN_TENDON: "tendon",
    mujoco.mjtTrn.mjTRN_SITE: "site",
    mujoco.mjtTrn.mjTRN_BODY: "body",
}


def actuator_name(model: mujoco.MjModel, actuator: int) -> str:
    """Return the name of an actuator; its number if it has none."""
    return str(model.actuator(actuator).name) or str(actuator)


def actuator_count(model: mujoco.MjModel) -> int:
    """Return the number of actuators; `model.nu` counts controls, of which one may have several."""
    return len(model.actuator_trntype)


def transmission(model: mujoco.MjModel, actuator: int) -> str:
    """Return the kind of an actuator's transmission, as MJCF calls it."""
    kind = mujoco.mjtTrn(int(model.actuator_trntype[actuator]))
    return TRANSMISSIONS.get(kind) or str(kind.name).removeprefix("mjTRN_").lower()


def moved_joints(model: mujoco.MjModel, actuator: int) -> set[int]:
    """Return the joints that an actuator may move, rather too many than too few."""
    kind, (first, second) = model.actuator_trntype[actuator], model.actuator_trnid[actuator]
    match mujoco.mjtTrn(int(kind)):
        case mujoco.mjtTrn.mjTRN_JOINT | mujoco.mjtTrn.mjTRN_JOINTINPARENT:
            return {int(first)}
        case mujoco.mjtTrn.mjTRN_TENDON:
            return set(_joints_of_tendon(model, int(first)))
        case mujoco.mjtTrn.mjTRN_SLIDERCRANK | mujoco.mjtTrn.mjTRN_SITE:
            sites = [int(site) for site in (first, second) if site >= 0]
            bodies = [int(model.site_bodyid[site]) for site in sites]
        case mujoco.mjtTrn.mjTRN_BODY:
            bodies = [int(first)]
        case _:  # e.g. a ball joint's servo
            return {int(first)} if 0 <= first < model.njnt else set()
    return {joint for body in bodies for joint in _joints_above(model, body)}


def _joints_above(model: mujoco.MjModel, body: int) -> Iterator[int]:
    while body > 0:
        first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
        yield from range(first, first + count)
        body = int(model.body_parentid[body])


def _joints_of_tendon(model: mujoco.MjModel, tendon: int) -> Iterator[int]:
    start, count = int(model.tendon_adr[tendon]), int(model.tendon_num[tendon])
    for wrap in range(start, start + count):
        thing = int(model.wrap_objid[wrap])
        match mujoco.mjtWrap(int(model.wrap_type[wrap])):
            case mujoco.mjtWrap.mjWRAP_JOINT:
                yield thing
            case mujoco.mjtWrap.mjWRAP_SITE:
                yield from _joints_above(model, int(model.site_bodyid[thing]))
            case mujoco.mjtWrap.mjWRAP_SPHERE | mujoco.mjtWrap.mjWRAP_CYLINDER:
                yield from _joints_above(model, int(model.geom_bodyid[thing]))


def _not_one_to_one(model: mujoco.MjModel, actuator: int) -> str | None:
    """Return what changes an actuator's command on its way to the joint; None: nothing."""
    if model.actuator_trntype[actuator] != mujoco.mjtTrn.mjTRN_JOINT:
        return f"a transmission of kind {transmission(model, actuator)}"
    if model.actuator_gear[actuator, 0] != 1:
        return f"gear {model.actuator_gear[actuator, 0]:g}"
    dynamics = mujoco.mjtDyn(int(model.actuator_dyntype[actuator]))
    if dynamics != mujoco.mjtDyn.mjDYN_NONE or model.actuator_actnum[actuator]:
        return f"dynamics of kind {dynamics.name.removeprefix('mjDYN_').lower()}"
    if model.actuator_plugin[actuator] >= 0:
        return "a plugin"
    if model.actuator_ctrlnum[actuator] != 1:
        return f"{model.actuator_ctrlnum[actuator]} controls"
    if model.actuator_delay[actuator] != 0:
        return f"a delay of {model.actuator_delay[actuator]:g} s (use the section latency: instead)"
    group = int(model.actuator_group[actuator])
    if group in GROUPS and model.opt.disableactuator & (1 << group):
        return f"group {group}, which the model disables"
    if model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_ACTUATION:
        return "actuation disabled in the whole model"
    gain = mujoco.mjtGain(int(model.actuator_gaintype[actuator]))
    if gain != mujoco.mjtGain.mjGAIN_FIXED:
        return f"a gain of kind {gain.name.removeprefix('mjGAIN_').lower()}"
    return None


def _no_motor(model: mujoco.MjModel, actuator: int) -> str | None:
    """Return why an actuator is not a plain motor; None: it is."""
    if (defect := _not_one_to_one(model, actuator)) is not None:
        return defect
    bias = mujoco.mjtBias(int(model.actuator_biastype[actuator]))
    if model.actuator_gainprm[actuator, 0] != 1:
        return f"gain {model.actuator_gainprm[actuator, 0]:g}"
    if bias != mujoco.mjtBias.mjBIAS_NONE and (
        bias != mujoco.mjtBias.mjBIAS_AFFINE or model.actuator_biasprm[actuator, :3].any()
    ):
        numbers = " ".join(f"{value:g}" for value in model.actuator_biasprm[actuator, :3])
        return f"a bias ({numbers}), as position and velocity servos have one"
    return None


class MotorSearch:
    """Finds the actuators of a contract in a model, and lists what is wrong with them.

    Args:
        model: the compiled model.
        spec: the contract.
        joints: its joints in the model: name -> number.

    Attributes:
        problems: one phrase each.
        controls: entries of `data.ctrl` in the order of the action, shape (n_act,).
        joints: joints that a twist's actuators move.
    """

    def __init__(self, model: mujoco.MjModel, spec: PolicySpec, joints: dict[str, int]) -> None:
        self._model, self._spec = model, spec
        self.problems: list[str] = []
        self._chosen: dict[str, int] = {}
        if spec.action.kind == "effort":
            for name, joint in joints.items():
                self._effort(name, joint)
        elif spec.action.kind == "twist":
            for axis in spec.action_joints:
                self._twist(axis)
        chosen = [self._chosen[name] for name in spec.action_joints if name in self._chosen]
        self.controls = model.actuator_ctrladr[np.array(chosen, dtype=np.intp)]
        self.joints = sorted({j for a in chosen for j in moved_joints(model, a)})

    def _movers(self, joint: int) -> list[int]:
        """Return the actuators that may move a joint, the joint's own first."""
        model = self._model
        found = [a for a in range(actuator_count(model)) if joint in moved_joints(model, a)]
        own = mujoco.mjtTrn.mjTRN_JOINT
        return sorted(found, key=lambda a: (model.actuator_trntype[a] != own, a))

    def _report(self, actuator: int, where: str, expected: str, got: object) -> None:
        name = actuator_name(self._model, actuator)
        self.problems.append(f"actuator {name} of {where}: expected {expected}, got {got}")

    def _require_alone(self, actuator: int, joint: int) -> None:
        """Report all other actuators that may move a joint."""
        model = self._model
        for other in self._movers(joint):
            if other != actuator:
                expected = f"only {actuator_name(model, actuator)} to move the joint"
                got = f"a second one (transmission: {transmission(model, other)}); remove it"
                self._report(other, f"joint {joint_name(model, joint)}", expected, got)

    def _effort(self, name: str, joint: int) -> None:
        limit, commanded = self._spec.joint(name).effort_limit, name in self._spec.action.scale
        movers = self._movers(joint)
        if not movers:
            if commanded:
                self.problems.append(f"expected a motor on joint {name}, got none")
            return
        motor = self._chosen[name] = movers[0]
        self._require_alone(motor, joint)
        if (defect := _no_motor(self._model, motor)) is not None:
            expected = f"{MOTOR}, so that the contract's effort arrives at the joint"
            got = f"{defect}; replace it by such a motor"
            self._report(motor, f"joint {name}", expected, got)
        elif commanded and limit is not None:
            self._check_bounds(name, joint, motor, limit)

    def _check_bounds(self, name: str, joint: int, motor: int, limit: float) -> None:
        model, where, contract = self._model, f"joint {name}", f"[{-limit:g}, {limit:g}]"
        control = int(model.actuator_ctrladr[motor])
        limited, got = model.actuator_ctrllimited[control], model.actuator_ctrlrange[control]
        if not limited or not np.allclose(got, [-limit, limit]):
            unlimited = "" if limited else ", and ctrllimited false"
            expected = f"ctrlrange {contract} as in the contract"
            self._report(motor, where, expected, f"{got.tolist()}{unlimited}")
        if model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CLAMPCTRL:
            expected = "commands that are clamped to ctrlrange"
            self._report(motor, where, expected, "flag clampctrl off")
        ranges = {
            "forcerange": (model.actuator_forcelimited[motor], model.actuator_forcerange[motor]),
            "actuatorfrcrange": (model.jnt_actfrclimited[joint], model.jnt_actfrcrange[joint]),
        }
        needed = limit * (1 - TOLERANCE)
        for field, (limited, (low, high)) in ranges.items():
            if limited and (low > -needed or high < needed):
                expected = f"{field} at least as wide as the contract's effort, {contract}"
                self._report(motor, where, expected, [float(low), float(high)])
        if model.jnt_actgravcomp[joint] and model.ngravcomp:
            expected = "all of the joint's effort to come from the contract"
            self._report(motor, where, expected, "gravity compensation on top (actuatorgravcomp)")

    def _twist(self, axis: str) -> None:
        model = self._model
        actuator = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_ACTUATOR, axis)
        if actuator < 0:
            self.problems.append(f"expected an actuator {axis}, a velocity servo, got none")
            return
        self._chosen[axis] = actuator
        if (defect := self._no_servo(axis, actuator)) is not None:
            self._report(actuator, f"axis {axis}", f"{SERVO} on a joint of its own", defect)
            return
        (joint,) = moved_joints(model, actuator)
        self._require_alone(actuator, joint)

    def _no_servo(self, axis: str, actuator: int) -> str | None:
        """Return why an actuator is not a velocity servo for an axis of a twist; None: it is."""
        model = self._model
        if (defect := _not_one_to_one(model, actuator)) is not None:
            return defect
        gain, bias = model.actuator_gainprm[actuator, 0], model.actuator_biasprm[actuator, :3]
        affine = model.actuator_biastype[actuator] == mujoco.mjtBias.mjBIAS_AFFINE
        if not affine or gain <= 0 or bias[0] or bias[1] or not np.isclose(bias[2], -gain):
            numbers = " ".join(f"{value:g}" for value in bias)
            return f"gain {gain:g} with a bias of ({numbers}), no velocity servo"
        hinge = model.jnt_type[model.actuator_trnid[actuator, 0]]
        expected = "hinge" if axis.startswith("angular") else "slide"
        got = mujoco.mjtJoint(int(hinge)).name.removeprefix("mjJNT_").lower()
        if got != expected:
            return f"one on a {got} joint where a {expected} joint turns or moves along the axis"
        control, scale = int(model.actuator_ctrladr[actuator]), self._spec.action.scale[axis]
        low, high = model.actuator_ctrlrange[control]
        if model.actuator_ctrllimited[control] and (low > -scale or high < scale):
            return f"ctrlrange {[float(low), float(high)]} narrower than the contract's {scale:g}"
        return None


def disable_actuators(model: mujoco.MjModel, joints: set[int], kept: set[int]) -> None:
    """Disable the actuators that move any of these joints.

    Args:
        model: changed in place: the actuators get a group of their own, which is disabled.
        joints: held joints and free ones.
        kept: controls that the contract commands.

    Raises:
        InputError: the model uses all groups.
    """
    spare = next((g for g in reversed(GROUPS) if g not in model.actuator_group), None)
    if spare is None:
        raise InputError(
            f"expected a model with one of the actuator groups 0 to {GROUPS[-1]} unused, to"
            " disable the actuators of held and free joints, got one that uses all of them"
        )
    for actuator in range(actuator_count(model)):
        if int(model.actuator_ctrladr[actuator]) in kept:
            continue
        if moved_joints(model, actuator) & joints:
            model.actuator_group[actuator] = spare
            model.opt.disableactuator |= 1 << spare
