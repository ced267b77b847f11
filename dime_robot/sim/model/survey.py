"""Survey of a robot's model: what it says, and what can only be guessed, each with its reason.

It is the first half of `python -m dime_robot.config new`: everything that a configuration needs to
know of a compiled MuJoCo model, without a word of YAML.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import mujoco
import numpy as np

from dime_robot.runtime.contract.units import (
    MAX_ANGLE,
    MAX_FORCE,
    MAX_SPEED,
    MAX_STIFFNESS,
    MAX_TORQUE,
)
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.model.actuators import actuator_count, moved_joints, transmission
from dime_robot.sim.model.adaptation import some
from dime_robot.sim.model.fit import JOINT_TYPES
from dime_robot.sim.model.ground import feet_of, lowest_points, touches_ground
from dime_robot.sim.model.loading import free_joint_of, joint_name, joints_below, root_of
from dime_robot.sim.model.loads import Load, joint_loads
from dime_robot.sim.model.servos import Servo, joint_servo

SAG = 0.025  # that a guessed stiffness allows under the robot's weight [rad or m]
MAX_SAG = 0.04  # of a model's own servo, before its stiffness is raised [rad or m]
NATURAL = 2 * math.pi * 2.0  # of a guessed drive: angular frequency [rad/s]
RATIO = 0.7  # of a guessed drive: damping ratio [1]
RESERVE = 2.0  # guessed effort limit over what the weight needs
NARROW = 0.1  # range of a revolute joint that is suspect [rad]
NEARLY = 1.03  # ratio of two dampings that count as the same [1]
FULL = 0.5  # position error at which a guessed stiffness gives a known effort [rad or m]
SLACK = 0.1  # position error at which a known stiffness gives a guessed effort [rad or m]
GIVE = (
    0.25  # position error at which a guessed stiffness carries the robot on a bent leg [rad or m]
)
LEAST_STIFFNESS = 0.01  # guessed [N m/rad or N/m]
LEAST_EFFORT = 1.0  # guessed [N m or N]
SPEEDS = {"legged": 20.0, "revolute": 3.0, "prismatic": 1.0}  # guessed [rad/s or m/s]
PARALLEL = 0.95  # cosine of the angle of two axes that count as parallel
ACROSS = 0.7  # share of a joint's axis along the robot's y, above which it is across it
IMU_SENSORS = (
    mujoco.mjtSensor.mjSENS_GYRO,
    mujoco.mjtSensor.mjSENS_ACCELEROMETER,
    mujoco.mjtSensor.mjSENS_FRAMEQUAT,
)
END = re.compile(r"attach|end|eef|ee_|_ee|tcp|grip|grasp|tool|pinch|tip", re.IGNORECASE)
DIGITS = 5  # decimals of positions in a configuration

NOT_CHOSEN = "not matched by --only"
Role = Literal["moved", "held", "free"]


class Estimate(NamedTuple):
    """A number of the robot."""

    value: float
    why: str = ""  # it is only guessed; empty: the model says so


@dataclass
class SurveyedJoint:
    """One revolute, prismatic or passive joint of the robot."""

    name: str
    number: int  # in the model
    type: Literal["revolute", "prismatic", "ball"]
    role: Role
    limits: tuple[float, float] | None  # stops [rad or m]
    position: Estimate  # in the pose at action 0 [rad or m]
    effort: Estimate  # largest [N m or N]
    stiffness: Estimate  # [N m/rad or N/m]
    damping: Estimate  # [N m s/rad or N s/m]
    velocity: Estimate  # largest [rad/s or m/s]
    armature: float  # [kg m^2 or kg]
    passive: float  # damping of the joint itself [N m s/rad or N s/m]
    sideways: bool = False  # its axis is not across the robot: it abducts or turns a limb
    why: str = ""  # its role is not that of a joint with an actuator of its own


class EndEffector(NamedTuple):
    """The end of the longest chain of joints that the policy moves."""

    body: str
    site: str | None  # on it; None: the model has none there
    why: str = ""  # it is only guessed


@dataclass
class Survey:
    """What a configuration needs to know of a model."""

    joints: list[SurveyedJoint]  # in the model's order
    root: str  # body below the world; empty: it has no name
    free_base: str | None  # body that the free joint moves; None: the base is fixed
    imu: str | None  # body
    imu_why: str  # it is only guessed; empty: the model says so, or there is none
    camera: str | None
    keyframe: str | None  # whose pose is the default
    height: Estimate | None  # of a free base, standing in the default pose [m]
    start: float | None  # height of a free base as the model has it [m]
    feet: list[str]  # bodies that touch the ground in the default pose
    wheels: bool  # what touches the ground turns without stops
    end: EndEffector
    overlaps: list[tuple[str, str]]  # bodies that touch in the default pose
    mass: float  # of the robot [kg]
    timestep: float  # of the model [s]
    warnings: list[str] = field(default_factory=list)  # one phrase each

    def of_role(self, role: Role) -> list[SurveyedJoint]:
        """Return the joints of one role, in the model's order."""
        return [joint for joint in self.joints if joint.role == role]

    @property
    def legged(self) -> bool:
        """Whether it stands on at least two feet, no wheels, with a base that moves freely."""
        stands = self.height is not None and self.height.value > 0
        return stands and len(self.feet) > 1 and not self.wheels


def survey(
    path: Path,
    model: mujoco.MjModel,
    only: str | None = None,
    speeds: Mapping[str, float] | None = None,
) -> Survey:
    """Find out what a configuration needs to know.

    Args:
        path: of the model, for messages.
        model: compiled; every joint of the robot has a name.
        only: regular expression; the policy moves only the joints whose name has a match.
        speeds: joint -> largest speed, where the file says so [rad/s or m/s].

    Raises:
        InputError: no joint could be moved, or the joints belong to several robots.
    """
    return _Surveyor(path, model, speeds or {}).survey(only)


class _Surveyor:
    """The survey of one model."""

    def __init__(self, path: Path, model: mujoco.MjModel, speeds: Mapping[str, float]) -> None:
        self._path, self._model, self._speeds = path, model, speeds
        self._data = mujoco.MjData(model)
        self._warnings: list[str] = []
        self._followers = _followers(model)
        self._guessed: dict[int, str] = {}  # joint -> where its position is from
        self._own: dict[int, list[int]] = {}  # joint -> actuators of its own
        self._others: dict[int, int] = {}  # joint -> another actuator that moves it
        for actuator in range(actuator_count(model)):
            joints = moved_joints(model, actuator)
            own = transmission(model, actuator) in ("joint", "jointinparent")
            for joint in joints:
                if own and len(joints) == 1:
                    self._own.setdefault(joint, []).append(actuator)
                else:
                    self._others[joint] = actuator

        for joint, leader in list(self._followers.items()):
            if joint in self._own and leader not in self._own and leader not in self._followers:
                del self._followers[joint]  # the one with the actuator leads
                self._followers[leader] = joint

    def survey(self, only: str | None) -> Survey:
        model = self._model
        moved = self._moved(only)
        try:
            root = root_of(model, moved)
        except ValueError:
            roots = dict.fromkeys(int(model.body_rootid[model.jnt_bodyid[j]]) for j in moved)
            names = ", ".join(str(model.body(r).name) or f"body {r}" for r in roots)
            raise InputError(
                f"{self._path}: expected the policy's joints in one robot, below one body of the"
                f" world, got {len(roots)} robots: {names}; choose the joints of one with --only"
                " REGEX"
            ) from None
        joints = joints_below(model, root)
        free = free_joint_of(model, root)
        keyframe = self._pose(joints, free)
        feet: list[int] = []
        height = None
        if free is not None:
            height, feet = self._stand(root, free, keyframe)
        loads = joint_loads(model, self._data, root, joints, feet)
        legged = len(feet) > 1
        surveyed = [self._joint(j, j in moved, keyframe, loads[j], legged) for j in joints]
        _unite(surveyed)
        imu, imu_why = self._imu(root, free)
        self._look_for_oddities(surveyed)
        camera = str(model.camera(0).name) if model.ncam and model.camera(0).name else None
        return Survey(
            joints=surveyed,
            root=str(model.body(root).name),
            free_base=str(model.body(root).name) if free is not None else None,
            imu=imu,
            imu_why=imu_why,
            camera=camera,
            keyframe=None if keyframe is None else str(model.key(keyframe).name) or str(keyframe),
            height=height,
            start=None if free is None else float(model.qpos0[model.jnt_qposadr[free] + 2]),
            feet=[str(model.body(foot).name) or f"body {foot}" for foot in feet],
            wheels=self._wheels(feet),
            end=self._end(moved),
            overlaps=self._overlaps(root),
            mass=float(model.body_subtreemass[root]),
            timestep=float(model.opt.timestep),
            warnings=list(dict.fromkeys(self._warnings)),
        )

    def _moved(self, only: str | None) -> list[int]:
        """Return the joints that the policy moves."""
        model = self._model
        scalar = [j for j in range(model.njnt) if _is_scalar(model, j)]
        candidates = [j for j in scalar if j in self._own and j not in self._followers]
        if not candidates and not actuator_count(model):
            candidates = [j for j in scalar if j not in self._followers]
            if candidates:
                self._warnings.append(
                    "the model has no actuators: every joint counts as driven, with guessed gains"
                )
        if not candidates:
            kinds = sorted({transmission(model, a) for a in range(actuator_count(model))})
            got = f"actuators of kind {', '.join(kinds)} only" if kinds else "none"
            raise InputError(
                f"{self._path}: expected a hinge or slide joint with an actuator of its own, got"
                f" {got}"
            )
        if only is None:
            return candidates
        try:
            pattern = re.compile(only)
        except re.error as error:
            raise InputError(
                f"--only: expected a regular expression, got {only!r}: {error}"
            ) from None
        chosen = [j for j in candidates if pattern.search(joint_name(model, j))]
        if not chosen:
            names = ", ".join(joint_name(model, j) for j in candidates)
            raise InputError(
                f"--only: expected a regular expression that matches one of {names}, got {only!r}"
            )
        return chosen

    def _pose(self, joints: Sequence[int], free: int | None) -> int | None:
        """Put the model into its default pose; return the keyframe that it is from."""
        model, data = self._model, self._data
        names = [str(model.key(k).name) for k in range(model.nkey)]
        keyframe = names.index("home") if "home" in names else 0 if names else None
        mujoco.mj_resetData(model, data)
        if keyframe is not None:
            data.qpos[:] = model.key_qpos[keyframe]
            if free is not None:
                start = model.jnt_qposadr[free]
                turned = data.qpos[start + 3 : start + 7]
                if not np.allclose(turned, model.qpos0[start + 3 : start + 7], atol=1e-3):
                    self._warnings.append(
                        f"keyframe {names[keyframe] or keyframe} turns the base, and the simulation"
                        " starts with the base as the model has it"
                    )
                data.qpos[start + 3 : start + 7] = model.qpos0[start + 3 : start + 7]
        for joint in joints:
            if not _is_scalar(model, joint):
                continue
            index = model.jnt_qposadr[joint]
            limits = _limits(model, joint)
            if limits is None:
                continue
            low, high = limits
            if keyframe is None and not low < data.qpos[index] < high:
                data.qpos[index] = (low + high) / 2
                self._guessed[joint] = "the middle of its range"
            elif not low <= data.qpos[index] <= high:
                if data.qpos[index] < low - 1e-3 or data.qpos[index] > high + 1e-3:
                    self._warnings.append(
                        f"keyframe {names[keyframe or 0]} has {joint_name(model, joint)} at"
                        f" {data.qpos[index]:.3g}, beyond its stops {[low, high]}: the pose ends at"
                        " the stop"
                    )
                data.qpos[index] = min(max(data.qpos[index], low), high)
        if keyframe is None and free is not None:
            self._fold(joints)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        return keyframe

    def _fold(self, joints: Sequence[int]) -> None:
        """Turn back half of a bent joint at the parallel joint above it: a foot below its hip."""
        model, data = self._model, self._data
        mujoco.mj_kinematics(model, data)
        for joint in [j for j in joints if j in self._guessed]:
            body = int(model.body_parentid[model.jnt_bodyid[joint]])
            above = [j for j in joints if model.jnt_bodyid[j] == body and _is_scalar(model, j)]
            index = model.jnt_qposadr[joint]
            for other in above:
                limits, wanted = _limits(model, other), -float(data.qpos[index]) / 2
                parallel = float(data.xaxis[joint] @ data.xaxis[other])
                turn = model.jnt_type[other] == model.jnt_type[joint] and abs(parallel) > PARALLEL
                start = model.jnt_qposadr[other]
                if not turn or data.qpos[start] != 0.0 or limits is None:
                    continue
                wanted *= math.copysign(1.0, parallel)
                data.qpos[start] = min(max(wanted, limits[0]), limits[1])
                self._guessed[other] = f"half of {joint_name(model, joint)} back"

    def _stand(
        self, root: int, free: int, keyframe: int | None
    ) -> tuple[Estimate | None, list[int]]:
        """Lower a free base to the ground; return its height, and the feet."""
        model, data = self._model, self._data
        points = lowest_points(model, data, root)
        if not points or not touches_ground(model):
            return None, []
        index = int(model.jnt_qposadr[free]) + 2
        above = min(point[2] for point in points.values())
        given = float(data.qpos[index])
        stands = given - above
        data.qpos[index] = stands
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        feet = feet_of(model, data, root)
        if keyframe is not None and abs(above) <= 0.03:
            height = Estimate(round(given, 4))
        else:
            pose = "the default pose" if keyframe is None else "the keyframe's pose"
            height = Estimate(round(stands, 4), f"{pose}, with its lowest point on the ground")
        return height, feet

    def _joint(
        self,
        joint: int,
        moved: bool,
        keyframe: int | None,
        load: Load,
        legged: bool,
    ) -> SurveyedJoint:
        model, name = self._model, joint_name(self._model, joint)
        if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_BALL:
            if joint in self._own or joint in self._others:
                raise InputError(
                    f"{self._path}: joint {name}: expected hinge or slide joints where there is an"
                    " actuator, got a ball joint, which this project cannot drive"
                )
            nothing = Estimate(0.0)
            why = "a ball joint without an actuator"
            return SurveyedJoint(
                name, joint, "ball", "free", None, nothing, nothing, nothing, nothing, nothing,
                0.0, 0.0, why=why,
            )  # fmt: skip
        revolute = model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE
        kind: Literal["revolute", "prismatic"] = "revolute" if revolute else "prismatic"
        role, why = self._role(joint, moved)
        limits = _limits(model, joint)
        if revolute and limits is not None and max(map(abs, limits)) > MAX_ANGLE:
            raise InputError(
                f"{self._path}: joint {name}: expected stops of up to {MAX_ANGLE:g} rad, got"
                f" {list(limits)}; give it its real stops, or none (limited: false) where it turns"
                " freely"
            )
        servo = joint_servo(model, joint, self._own.get(joint, []), self._others.get(joint))
        stiffness, damping = self._gains(name, servo, load)
        effort = self._effort(servo, stiffness.value, load, revolute)
        if effort.value < load.pose and role != "free":
            self._warnings.append(
                f"{name} needs {load.pose:.3g} {'N m' if revolute else 'N'} for the weight in the"
                f" default pose, and has {effort.value:g}"
            )
        return SurveyedJoint(
            name=name,
            number=joint,
            type=kind,
            role=role,
            limits=limits,
            position=self._position(joint, keyframe, limits),
            effort=effort,
            stiffness=stiffness,
            damping=damping,
            velocity=self._velocity(name, kind, legged),
            armature=float(model.dof_armature[model.jnt_dofadr[joint]]),
            passive=float(model.dof_damping[model.jnt_dofadr[joint]]),
            sideways=bool(abs(self._data.xaxis[joint][1]) < ACROSS),
            why=why,
        )

    def _role(self, joint: int, moved: bool) -> tuple[Role, str]:
        if moved:
            return "moved", ""
        if joint in self._followers:
            return "free", f"follows {joint_name(self._model, self._followers[joint])}"
        if joint in self._own or not actuator_count(self._model):
            return "held", NOT_CHOSEN
        if joint in self._others:
            return "held", f"moved by a {transmission(self._model, self._others[joint])} only"
        return "free", "no actuator moves it"

    def _position(
        self, joint: int, keyframe: int | None, limits: tuple[float, float] | None
    ) -> Estimate:
        value = round(float(self._data.qpos[self._model.jnt_qposadr[joint]]), DIGITS)
        if limits is not None:
            value = min(max(value, limits[0]), limits[1])
        if keyframe is not None:
            return Estimate(value)
        return Estimate(value, f"no keyframe: {self._guessed.get(joint, 'its zero')}")

    def _velocity(self, name: str, kind: str, legged: bool) -> Estimate:
        if name in self._speeds and 0 < self._speeds[name] <= MAX_SPEED:
            return Estimate(self._speeds[name])
        value = SPEEDS["legged" if legged and kind == "revolute" else kind]
        return Estimate(value, "not in the model")

    def _effort(self, servo: Servo, stiffness: float, load: Load, revolute: bool) -> Estimate:
        largest = MAX_TORQUE if revolute else MAX_FORCE
        if servo.effort <= largest:
            return Estimate(significant(servo.effort, 6))
        if math.isfinite(servo.effort):
            return Estimate(largest, f"the model's {servo.effort:g} is beyond any motor")
        value = max(LEAST_EFFORT, RESERVE * load.largest, SLACK * stiffness)
        return Estimate(min(significant(value, 2, up=True), largest), "not in the model")

    def _gains(self, name: str, servo: Servo, load: Load) -> tuple[Estimate, Estimate]:
        hung, inertia = load.hung, load.inertia
        if servo.stiffness > 0 and not servo.odd:
            stiffness = Estimate(significant(servo.stiffness, 6))
            damping = Estimate(significant(max(servo.damping, 0.0), 6))
            if hung > MAX_SAG * servo.stiffness:
                raised = significant(hung / SAG, 2, up=True)
                self._warnings.append(
                    f"the model's servo of {name}, {servo.stiffness:g}, sags"
                    f" {hung / servo.stiffness:.2g} under the weight: raised to {raised:g}"
                )
                stiffness = Estimate(
                    raised, f"the model's {servo.stiffness:g} sags {hung / servo.stiffness:.2g}"
                )
            return stiffness, damping
        value = max(
            load.pose / SAG,
            load.outstretched / MAX_SAG,
            load.on_one_side / GIVE,
            inertia * NATURAL**2,
            LEAST_STIFFNESS,
        )
        if math.isfinite(servo.effort):
            value = max(value, min(servo.effort / FULL, inertia * (10 * NATURAL) ** 2))
        value = min(significant(value, 2, up=True), MAX_STIFFNESS)
        why = servo.odd or "no servo in the model"
        damped = 2 * RATIO * math.sqrt(value * inertia)
        return Estimate(value, why), Estimate(significant(damped, 2, up=True), why)

    def _imu(self, root: int, free: int | None) -> tuple[str | None, str]:
        """Return the body with the imu, and why it is only guessed."""
        model = self._model
        if free is None:
            return None, ""
        sites = []
        for sensor in range(model.nsensor):
            if model.sensor_type[sensor] not in IMU_SENSORS:
                continue
            where, kind = int(model.sensor_objid[sensor]), model.sensor_objtype[sensor]
            if kind == mujoco.mjtObj.mjOBJ_SITE:
                sites.append(int(model.site_bodyid[where]))
            elif kind in (mujoco.mjtObj.mjOBJ_BODY, mujoco.mjtObj.mjOBJ_XBODY):
                sites.append(where)
        sites += [
            int(model.site_bodyid[s])
            for s in range(model.nsite)
            if "imu" in str(model.site(s).name).lower()
        ]
        sites += [b for b in range(1, model.nbody) if "imu" in str(model.body(b).name).lower()]
        mine = [body for body in sites if model.body_rootid[body] == root]
        if root in mine:  # a torso may have one more
            return str(model.body(root).name), ""
        for body in mine:
            if model.body(body).name:
                return str(model.body(body).name), ""
        return str(model.body(root).name), "the model has no imu: the base"

    def _wheels(self, feet: Sequence[int]) -> bool:
        """Return whether a body that touches the ground is moved by a joint without stops."""
        model = self._model
        for link in {int(model.body_weldid[foot]) for foot in feet}:
            first, count = int(model.body_jntadr[link]), int(model.body_jntnum[link])
            joints = range(first, first + count) if first >= 0 else range(0)
            if any(_is_scalar(model, j) and not model.jnt_limited[j] for j in joints):
                return True
        return False

    def _end(self, moved: Sequence[int]) -> EndEffector:
        """Find the end of the longest chain of moved joints."""
        model, data = self._model, self._data
        own = {int(model.jnt_bodyid[joint]) for joint in moved}
        depth = np.zeros(model.nbody, dtype=int)
        for body in range(1, model.nbody):
            depth[body] = depth[model.body_parentid[body]] + (body in own)
        link = int(depth.argmax())  # the first of the last links
        welded = np.flatnonzero(model.body_weldid == model.body_weldid[link]).tolist()
        sites = {
            str(model.site(site).name): str(model.body(model.site_bodyid[site]).name)
            for site in range(model.nsite)
            if model.site_bodyid[site] in welded and model.site(site).name
        }
        for name in sorted(sites, key=lambda name: not END.search(name)):
            return EndEffector(sites[name], name, "the end of the longest chain")
        far = [float(np.linalg.norm(data.xpos[each] - data.xpos[link])) for each in welded]
        names = [str(model.body(welded[i]).name) for i in np.argsort(far)[::-1]]
        last = next((name for name in names if name), "")
        return EndEffector(last, None, f"the frame of {last}, the end of the longest chain")

    def _overlaps(self, root: int) -> list[tuple[str, str]]:
        """Return the bodies of the robot that penetrate each other in the default pose."""
        model, data = self._model, self._data
        mujoco.mj_forward(model, data)
        pairs = set()
        for contact in data.contact[: data.ncon]:
            bodies = [int(model.geom_bodyid[geom]) for geom in contact.geom]
            if all(model.body_rootid[body] == root for body in bodies) and contact.dist < -1e-3:
                first, second = sorted(str(model.body(body).name) for body in bodies)
                pairs.add((first, second))
        return sorted(pairs)

    def _look_for_oddities(self, joints: Sequence[SurveyedJoint]) -> None:
        driven = [joint for joint in joints if joint.role != "free"]
        narrow = [
            joint.name
            for joint in driven
            if joint.type == "revolute"
            and joint.limits is not None
            and joint.limits[1] - joint.limits[0] < NARROW
        ]
        if narrow:
            self._warnings.append(
                f"stops within {NARROW:g} rad at {some(narrow)}: MJCF is in degrees without"
                ' <compiler angle="radian"/>'
            )
        if names := [joint.name for joint in driven if joint.armature == 0]:
            self._warnings.append(
                f"no armature at {some(names)}: the rotor of a geared motor adds inertia, without"
                " which drives need smaller steps"
            )
        if names := [joint.name for joint in driven if joint.damping.value + joint.passive == 0]:
            self._warnings.append(f"no damping in the servo of {some(names)}")


def _unite(joints: Sequence[SurveyedJoint]) -> None:
    """Give joints with nearly the same damping the same, in place.

    MuJoCo computes the damping of a servo with a damping ratio from the joint's inertia, so that it
    differs a little between left and right.
    """
    known = [joint for joint in joints if not joint.damping.why and joint.damping.value > 0]
    known.sort(key=lambda joint: joint.damping.value)
    start = 0
    for end in range(1, len(known) + 1):
        if end < len(known) and known[end].damping.value <= known[start].damping.value * NEARLY:
            continue
        values = [joint.damping.value for joint in known[start:end]]
        if values[0] != values[-1]:
            mean = significant(sum(values) / len(values), 3)
            for joint in known[start:end]:
                joint.damping = Estimate(mean)
        start = end


def _followers(model: mujoco.MjModel) -> dict[int, int]:
    """Return the joints that an equality makes follow another one: joint -> its leader."""
    found: dict[int, int] = {}
    for equality in range(model.neq):
        first, second = int(model.eq_obj1id[equality]), int(model.eq_obj2id[equality])
        joint = model.eq_type[equality] == mujoco.mjtEq.mjEQ_JOINT
        if joint and second >= 0 and model.eq_active0[equality] and found.get(second) != first:
            found[first] = second
    return found


def _is_scalar(model: mujoco.MjModel, joint: int) -> bool:
    return mujoco.mjtJoint(int(model.jnt_type[joint])) in JOINT_TYPES.values()


def _limits(model: mujoco.MjModel, joint: int) -> tuple[float, float] | None:
    """Return a joint's stops as a configuration has them [rad or m]; None: it has none."""
    if not model.jnt_limited[joint]:
        return None
    low, high = (round(float(stop), DIGITS) for stop in model.jnt_range[joint])
    return low, high


def significant(value: float, digits: int, up: bool = False) -> float:
    """Round to significant digits.

    Args:
        value: [its unit].
        digits: that are kept.
        up: never below the value.
    """
    if value == 0 or not math.isfinite(value):
        return value
    factor = 10.0 ** (digits - 1 - math.floor(math.log10(abs(value))))
    scaled = math.ceil(value * factor - 1e-9) if up else round(value * factor)
    return float(f"{scaled / factor:.{digits}g}")
